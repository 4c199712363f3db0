"""Saves, lists, fetches, restores and edits versions with clients that are not part of this repository.

The argument is the folder with the data of the endpoints. The environment is that of .ci/clients.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version as version_of
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import minio
import obstore.store
import pyJianYingDraft
import s3fs
import yaml
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from minio.commonconfig import CopySource

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLE = REPOSITORY / "local" / "sample"
DRAFT = "2025092811473036584258"
DOCUMENT = "draft_content.json"
BUCKET = os.environ["DRAFT_BUCKET"]
ENDPOINT = os.environ["AWS_ENDPOINT_URL_S3"]
REGION = os.environ["AWS_REGION"]
ACCESS_KEY = os.environ["AWS_ACCESS_KEY_ID"]
SECRET_KEY = os.environ["AWS_SECRET_ACCESS_KEY"]


def expect(subject, actual, expected):
    """Stops with both values if they differ, or with the entries of two dictionaries that differ."""
    if actual != expected:
        if isinstance(actual, dict) and isinstance(expected, dict):
            equal = {key for key in actual.keys() & expected.keys() if actual[key] == expected[key]}
            actual, expected = ({key: side[key] for key in side if key not in equal} for side in (actual, expected))
        sys.exit(f"{subject}:\n  expected {shorten(expected)}\n  got      {shorten(actual)}")


def shorten(value):
    text = repr(value)
    return text if len(text) <= 2000 else f"{text[:2000]}… ({len(text)} characters)"


def draft_url(draft):
    return f"https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id={draft}"


def save(draft):
    """Saves a draft whose state has no version yet, and returns the name of its version."""
    body = json.dumps({"draft_url": draft_url(draft)}).encode()
    request = urllib.request.Request(os.environ["URL"], body, {"Content-Type": "application/json"})
    try:
        response = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        answer = (response.status, response.headers["Draft-Saved"], json.load(response))
        expect(f"save of {draft}", answer, (200, "created", {"draft_url": draft_url(draft)}))
        return response.headers["Draft-Version"]


def drafts(*arguments):
    subprocess.run([os.environ["DRAFTS"], *arguments], check=True, stdout=subprocess.DEVNULL)


def files_in(folder):
    """Returns the content of each file, by its path in the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Boto3:
    def __init__(self):
        self.client = boto3.client("s3", region_name=REGION)

    def list(self, prefix):
        # More than one page.
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=prefix, PaginationConfig={"PageSize": 2}
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def fetch(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def copy(self, source, target):
        self.client.copy({"Bucket": BUCKET, "Key": source}, BUCKET, target)

    def upload(self, file, key):
        self.client.upload_file(str(file), BUCKET, key)


class S3fs:
    def __init__(self):
        self.files = s3fs.S3FileSystem(client_kwargs={"region_name": REGION}, use_listings_cache=False)

    def list(self, prefix):
        return [path.removeprefix(f"{BUCKET}/") for path in self.files.find(f"{BUCKET}/{prefix}")]

    def fetch(self, key):
        return self.files.cat_file(f"{BUCKET}/{key}")

    def copy(self, source, target):
        self.files.cp_file(f"{BUCKET}/{source}", f"{BUCKET}/{target}")


class Obstore:
    def __init__(self):
        self.store = obstore.store.S3Store(
            BUCKET,
            endpoint=ENDPOINT,
            region=REGION,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )

    def list(self, prefix):
        return [item["path"] for chunk in self.store.list(prefix) for item in chunk]

    def fetch(self, key):
        return bytes(self.store.get(key).bytes())

    def copy(self, source, target):
        self.store.copy(source, target)


class Minio:
    def __init__(self):
        self.client = minio.Minio(urlsplit(ENDPOINT).netloc, ACCESS_KEY, SECRET_KEY, secure=False, region=REGION)

    def list(self, prefix):
        return [item.object_name for item in self.client.list_objects(BUCKET, prefix=prefix, recursive=True)]

    def fetch(self, key):
        with self.client.get_object(BUCKET, key) as response:
            return response.read()

    def copy(self, source, target):
        self.client.copy_object(BUCKET, target, CopySource(BUCKET, source))


def edit(folder, text, name, material):
    """Replaces the text and the material `name` of a draft with pyJianYingDraft, and saves it."""
    script = pyJianYingDraft.DraftFolder(str(folder.parent)).load_template(folder.name)
    track = script.get_imported_track(pyJianYingDraft.TrackType.text, name="captions")
    script.replace_text(track, 0, text)
    script.replace_material_by_name(name, material)
    script.save()


def upload(folder):
    """Uploads a draft with boto3, its document last."""
    client = Boto3()
    for path in sorted(files_in(folder), key=lambda path: path == DOCUMENT):
        client.upload(folder / path, f"drafts/{DRAFT}/{path}")


def check_editing(library):
    """Edits a saved version and a restored one. Returns the files of each version, by its name."""
    original = save(DRAFT)
    versions = {original: files_in(SAMPLE)}

    saved = library / "saved"
    drafts("download", DRAFT, original, "--to", str(saved))
    expect("downloaded version", files_in(saved), versions[original])
    # A key with characters that clients must escape.
    sound = saved / "assets" / "配乐 +1.wav"
    shutil.copy(saved / "assets" / "tone.wav", sound)
    edit(saved, "来自已保存的版本", "theme.mp3", pyJianYingDraft.AudioMaterial(str(sound)))
    upload(saved)
    first = save(DRAFT)
    versions[first] = files_in(saved)

    drafts("restore", DRAFT, original, "--exact")
    restored = library / "restored"
    client = Boto3()
    prefix = f"drafts/{DRAFT}/"
    for key in client.list(prefix):
        path = restored / key.removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(client.fetch(key))
    expect("restored draft", files_in(restored), versions[original])
    cover = pyJianYingDraft.VideoMaterial(str(restored / "draft_cover.png"))
    edit(restored, "来自恢复的版本", "opening.mp4", cover)
    upload(restored)
    second = save(DRAFT)
    versions[second] = files_in(restored)

    for version, text, kind, path in (
        (first, "来自已保存的版本", "audios", sound),
        (second, "来自恢复的版本", "videos", restored / "draft_cover.png"),
    ):
        target = library / version
        drafts("download", DRAFT, version, "--to", str(target))
        expect(f"files of {version}", files_in(target), versions[version])
        script = pyJianYingDraft.DraftFolder(str(library)).load_template(version)
        texts = [json.loads(material["content"])["text"] for material in script.imported_materials["texts"]]
        expect(f"texts of {version}", texts, [text])
        paths = [material["path"] for material in script.imported_materials[kind]]
        expect(f"{kind} of {version}", paths, [str(path)])
    return versions


def files_of_version(client, draft, version):
    """Fetches the document of a version, and the files in its manifest."""
    prefix = f"saved/{draft}/{version}/"
    files = {DOCUMENT: client.fetch(prefix + DOCUMENT)}
    for file in json.loads(client.fetch(prefix + "files.json"))["files"]:
        files[file["path"]] = client.fetch(file["key"])
    return files


def check_store_client(client, name, versions):
    """Lists, fetches and restores the versions of the draft, and saves what was restored."""
    prefix = f"saved/{DRAFT}/"
    keys = [prefix + version + file for version in versions for file in (f"/{DOCUMENT}", "/files.json")]
    expect(f"{name}: keys of the versions", sorted(client.list(prefix)), sorted(keys))
    for version, files in versions.items():
        expect(f"{name}: files of {version}", files_of_version(client, DRAFT, version), files)

        # Each version is restored as a draft of its own.
        draft = f"{name}-{version[-16:]}"
        manifest = json.loads(client.fetch(f"{prefix}{version}/files.json"))
        for file in manifest["files"]:
            client.copy(file["key"], f"drafts/{draft}/{file['path']}")
        client.copy(f"{prefix}{version}/{DOCUMENT}", f"drafts/{draft}/{DOCUMENT}")
        restored = {key.removeprefix(f"drafts/{draft}/"): client.fetch(key) for key in client.list(f"drafts/{draft}/")}
        expect(f"{name}: restored files of {version}", restored, files)
        saved = save(draft)
        expect(f"{name}: saved files of {draft}", files_of_version(client, draft, saved), files)


async def call_tool(document, url, *ids):
    """Calls the tool that FastMCP makes of an OpenAPI document, for each id. Returns the answers and errors."""
    specification = yaml.safe_load((REPOSITORY / "docs" / document).read_text(encoding="utf-8"))
    [path] = specification["paths"]
    expect(f"path of {document}", path, urlsplit(url).path)
    specification["servers"] = [{"url": url.removesuffix(path)}]
    answers = []
    async with Client(FastMCP.from_openapi(specification)) as client:
        expect(f"tools of {document}", [tool.name for tool in await client.list_tools()], ["save_draft"])
        for draft in ids:
            try:
                result = await client.call_tool("save_draft", {"draft_url": draft_url(draft)})
                answers.append(result.structured_content)
            except ToolError as error:
                answers.append(str(error))
    return answers


def check_tool(code_folder):
    answers = asyncio.run(call_tool("openapi.yaml", os.environ["URL"], DRAFT, "missing"))
    saved = {"draft_url": draft_url(DRAFT)}
    missing = """Error calling tool 'save_draft': HTTP error 404: Not Found - {"detail": "Draft does not exist"}"""
    expect("answers of the tool", answers, [saved, missing])

    # This draft has no version yet.
    answers = asyncio.run(call_tool("openapi-code.yaml", os.environ["CODE_URL"], DRAFT, DRAFT, "missing"))
    [version] = (path.name for path in (code_folder / BUCKET / "saved" / DRAFT).iterdir())
    saved = {"code": 0, "message": "success", "draft_url": draft_url(DRAFT), "version": version}
    missing = {"code": 2001, "message": "Draft does not exist"}
    expected = [saved | {"saved": "created"}, saved | {"saved": "unchanged"}, missing]
    expect("answers of the tool with RESPONSE_FORMAT=code", answers, expected)


def main():
    work = Path(sys.argv[1])
    library = work / "library"
    library.mkdir()

    print(f"-- pyJianYingDraft {version_of('pyjianyingdraft')} edits a saved version and a restored one")
    versions = check_editing(library)
    for client in (Boto3, S3fs, Obstore, Minio):
        name = client.__name__.lower()
        print(f"-- {name} {version_of(name)} lists, fetches and restores {len(versions)} versions")
        check_store_client(client(), name, versions)
    print(f"-- FastMCP {version_of('fastmcp')} calls the tool of each OpenAPI document")
    check_tool(work / "data-code")


main()
