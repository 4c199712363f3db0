#!/usr/bin/env python3
"""Compares `drafts download` and `drafts restore` with the shell loop that they replace and with `aws s3 sync`.

    cargo build --release -p local -p drafts
    python3 benches/versions.py [--files 1000] [--loop-files 20]

Needs the AWS CLI. All run on this machine, with the S3 of the local endpoint, one after the other, three times each;
the fastest counts. The loop starts the AWS CLI once for each file, so it is timed with a few files.
"""

import argparse
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
DRAFT = "2025092811473036584258"
BUCKET = "drafts"

LOOP = """
for path in $(cat "$PATHS"); do
  aws s3 cp --only-show-errors "$FROM$path" "$TO$path" || exit 1
done
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def timed(command, env, before=lambda: None, times=3):
    """Returns the shortest of several durations, in seconds."""
    durations = []
    for _ in range(times):
        before()
        start = time.monotonic()
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        durations.append(time.monotonic() - start)
    return min(durations)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--loop-files", type=int, default=20)
    parser.add_argument("--bytes", type=int, default=50_000, help="size of a file")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release")
    args = parser.parse_args()
    if not shutil.which("aws"):
        sys.exit("the AWS CLI is missing")
    work = pathlib.Path(tempfile.mkdtemp(prefix="drafts-bench-"))
    data, s3_port, port = work / "data", free_port(), free_port()
    server = subprocess.Popen(
        [args.bin / "local", "--port", str(port), "--s3-port", str(s3_port), "--data-dir", data, "--save-files"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local-secret",
        "DRAFT_BUCKET": BUCKET,
        "DRAFT_ID": DRAFT,
    }
    drafts = args.bin / "drafts"
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        folder = data / BUCKET / "drafts" / DRAFT
        (folder / "assets").mkdir(parents=True, exist_ok=True)
        names = [f"assets/{number:05}.bin" for number in range(args.files)]
        for number, name in enumerate(names):
            (folder / name).write_bytes(number.to_bytes(4, "big") * (args.bytes // 4))
        url = f"https://example.com/get_draft?draft_id={DRAFT}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/openapi/capcut-mate/v1/save_draft",
            f'{{"draft_url": "{url}"}}'.encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            version = response.headers["Draft-Version"]
        draft, target = f"s3://{BUCKET}/drafts/{DRAFT}/", work / "to"
        paths = work / "paths"
        paths.write_text("\n".join(names[: args.loop_files]))

        def clear():
            shutil.rmtree(target, ignore_errors=True)

        def loop(to, before):
            loop_env = env | {"PATHS": str(paths), "FROM": draft, "TO": to}
            return timed(["sh", "-c", LOOP], loop_env, before, 1) / args.loop_files * args.files

        numbers = iter(range(1000))
        copy = [""]

        def new_copy():
            copy[0] = f"copy-{next(numbers)}"

        def restore():
            new_copy()
            start = time.monotonic()
            command = [drafts, "restore", DRAFT, version, "--as", copy[0]]
            subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
            return time.monotonic() - start

        def sync():
            new_copy()
            start = time.monotonic()
            command = ["aws", "s3", "sync", "--only-show-errors", draft, f"s3://{BUCKET}/drafts/{copy[0]}/"]
            subprocess.run(command, env=env, check=True)
            return time.monotonic() - start

        rows = {
            "download": (
                timed([drafts, "download", DRAFT, version, "--to", target], env, clear),
                timed(["aws", "s3", "sync", "--only-show-errors", draft, target], env, clear),
                loop(f"{target}/", clear),
            ),
            "restore": (
                min(restore() for _ in range(3)),
                min(sync() for _ in range(3)),
                loop(f"s3://{BUCKET}/drafts/loop/", lambda: None),
            ),
        }
        print(f"{args.files} files of {args.bytes} bytes, {os.cpu_count()} processors")
        print(f"{'':10}{'drafts':>10}{'aws s3 sync':>14}{'shell loop':>13}{'to sync':>10}{'to loop':>10}")
        for name, (ours, other, shell) in rows.items():
            print(
                f"{name:10}{ours:8.2f} s{other:12.2f} s{shell:11.1f} s"
                f"{other / ours:8.1f} x{shell / ours:8.0f} x"
            )
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
