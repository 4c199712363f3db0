"""Deploys the stack to the AWS emulator, and checks with real requests that it works.

Environment variables:
  PACKAGE   zip file of the package
  KEEP_LOG  file that receives the emulator's log
  LONG      1 for a backfill of 1,000 drafts in place of 100

Prints one line for each check, and at the end `N passed, N failed`.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from botocore.credentials import Credentials

sys.dont_write_bytecode = True

from account import ACCOUNT, ARCHITECTURE, REGION, Account, Drafts, Stack, emulator, error_of, wait_for  # noqa: E402
from drafts import Command, commands  # noqa: E402
from runbook import Runbook  # noqa: E402

ORIGIN = "https://editor.example"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
VERSION = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{64}$")

results = {"passed": 0, "failed": 0}
area = ""


def check(name, actual, expected=True):
    """Prints and counts one check: `actual` must equal `expected`."""
    passed = actual == expected
    results["passed" if passed else "failed"] += 1
    detail = "" if passed else f": expected {expected!r}, got {actual!r}"
    print(f"{'ok  ' if passed else 'FAIL'} {area}: {name}{detail}", flush=True)
    return passed


def begin(name):
    global area
    area = name


def draft_url(draft_id):
    return f"https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id={draft_id}"


def document(text):
    """Returns the bytes of a draft's document, with a content that the tests can tell apart."""
    return json.dumps({"name": text, "tracks": [], "materials": {}, "ratio": "16：9"}, ensure_ascii=False).encode()


def check_release(account):
    """Deploys the package with the documented commands, as a user without Rust does, and updates the stack."""
    begin("release")
    archive = Path(os.environ["PACKAGE"])
    version = archive.stem.removeprefix("save-draft-")
    stack = Stack(account, "save-draft")
    runbook = Runbook(account, stack)
    shutil.copy(archive, runbook.folder)
    account.package = runbook.folder / archive.stem
    check("no tool of Rust is in the path", [shutil.which(tool) for tool in ["cargo", "rustc", "cargo-lambda"]], [None] * 3)
    started = time.monotonic()
    check("the package is unpacked and deployed", runbook.error_of("Deploy", 2, "y\n", VERSION=version), None)
    seconds = time.monotonic() - started
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=account.package, check=False)
    check("the files have their checksums", sums.returncode, 0)
    overrides = {"Architecture": ARCHITECTURE, "SaveFiles": "true", "VersionImporterArns": account.user_arn}
    options = " --parameter-overrides " + " ".join(f"{key}={value}" for key, value in overrides.items())
    check("the stack is updated", runbook.error_of("Update", 0, "y\n", options, VERSION=version), None)
    stack.read_outputs()
    print(f"     release: unpacked and deployed in {seconds:.1f} s", flush=True)
    try:
        check_earlier_versions(account, stack)
        check_backfill(account, stack, runbook)
    finally:
        # The checks that follow look for all resources of the account.
        check("the stack is deleted", stack.delete(), "ValidationError")


def check_earlier_versions(account, stack):
    """Writes versions with the layout of 0.2.0: they are found, and the next state is saved beside them."""
    begin("versions of 0.2.0")
    drafts, function = Drafts(account, stack), account.aws.client("lambda")
    s3 = drafts.s3

    def save(draft_id):
        response = function.invoke(FunctionName=stack.function, Payload=json.dumps({"draft_id": draft_id}))
        return json.loads(response["Payload"].read())

    def create(key, body):
        s3.put_object(Bucket=stack.saved_bucket, Key=key, Body=body, IfNoneMatch="*")

    for draft_id, paths in [("20250928000100", []), ("20250928000101", ["assets/a.mp4", "draft_meta_info.json"])]:
        folder = f"drafts/{draft_id}"
        body = document(f"saved by 0.2.0 with {len(paths)} files")
        drafts.put(draft_id, body)
        for path in paths:
            drafts.put_key(f"{folder}/{path}", path.encode())
        objects = s3.list_objects_v2(Bucket=stack.draft_bucket, Prefix=f"{folder}/")["Contents"]
        newest = max(item["LastModified"] for item in objects)
        digest = hashlib.sha256(body).hexdigest()
        files = []
        for path in paths:
            [found] = [item for item in objects if item["Key"] == f"{folder}/{path}"]
            etag = found["ETag"].strip('"')
            key = f"saved-files/{draft_id}/{etag}/{path}"
            files.append({"path": path, "size": found["Size"], "etag": etag,
                          "last_modified": found["LastModified"].strftime("%Y-%m-%dT%H:%M:%SZ"), "key": key})
            create(key, path.encode())
        if files:
            state = json.dumps([digest, [[file["path"], file["etag"]] for file in files]], separators=(",", ":"))
            digest = hashlib.sha256(state.encode()).hexdigest()
        version = f"{newest.strftime('%Y%m%dT%H%M%SZ')}-{digest}"
        if files:
            manifest = json.dumps({"draft_id": draft_id, "files": files}, indent=2)
            create(f"saved/{draft_id}/{version}/files.json", manifest)
        create(f"saved/{draft_id}/{version}/draft_content.json", body)
        before = drafts.versions(draft_id)

        found = save(draft_id)
        check(f"a version with {len(files)} files is found", (found.get("saved"), found.get("version")),
              ("unchanged", version))
        drafts.put(draft_id, document("saved by this release"))
        check("the next state is saved", save(draft_id).get("saved"), "created")
        after = drafts.versions(draft_id)
        check("the earlier version is unchanged", {key: after.get(key) for key in before}, before)


def check_backfill(account, stack, runbook):
    """Saves drafts that nobody has saved yet, with the documented command."""
    begin("backfill")
    drafts = Drafts(account, stack)
    ids = [f"backfill-{number:04}" for number in range(1000 if os.environ.get("LONG") else 100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda draft_id: drafts.put(draft_id, document(draft_id)), ids))
    drafts.put("backfill-0050", b'{"tracks": [')
    started = time.monotonic()
    status, output = runbook.run("Drafts from before the deployment")
    seconds = time.monotonic() - started
    check("it ends, and prints the draft that cannot be saved", (status, output.split()), (0, ["backfill-0050"]))
    saved = {key.split("/")[1] for key in drafts.keys("saved/backfill-")}
    check("all other drafts have a version", saved, set(ids) - {"backfill-0050"})
    print(f"     backfill: {len(ids)} drafts in {seconds:.1f} s", flush=True)


def check_api(account, stack):
    """Sends documented and undocumented requests to the API."""
    begin("API")
    drafts = Drafts(account, stack)
    gateway = account.aws.client("apigateway")
    key = gateway.get_api_key(apiKey=stack.outputs["ApiKeyId"], includeValue=True)["value"]

    def call(body, method="POST", url=stack.url, **headers):
        return account.request(method, url, body, {"x-api-key": key, "Origin": ORIGIN, **headers})

    def save(draft_id):
        return call(json.dumps({"draft_url": draft_url(draft_id)}))

    body = document("first")
    drafts.put("20250928000001", body)
    response = save("20250928000001")
    check("a save is answered with 200", response.status, 200)
    check("the answer has the draft_url", response.json(), {"draft_url": draft_url("20250928000001")})
    check("the first save creates a version", response.headers["Draft-Saved"], "created")
    version = response.headers["Draft-Version"] or ""
    check("the version has the documented form", bool(VERSION.match(version)))
    path = f"saved/20250928000001/{version}/draft_content.json"
    check("the version has the bytes of the draft", drafts.versions("20250928000001"), {path: body})
    again = save("20250928000001")
    check("the second save answers 200", again.status, 200)
    check("the second save finds the version", again.headers["Draft-Saved"], "unchanged")
    check("the second save has the same version", again.headers["Draft-Version"], version)
    check("the second save creates nothing", list(drafts.versions("20250928000001")), [path])
    drafts.put("20250928000001", document("second"))
    check("a new state creates a version", save("20250928000001").headers["Draft-Saved"], "created")
    check("both versions are kept", len(drafts.versions("20250928000001")), 2)

    required, invalid = (400, "draft_url is required"), (400, "Invalid draft_url format")
    no_object = (400, "The request body must be a JSON object")
    for name, request, expected in [
        ("no draft_url", "{}", required),
        ("an empty draft_url", '{"draft_url":" "}', required),
        ("a draft_url without id", '{"draft_url":"https://example.com/"}', invalid),
        ("a draft_url that is no URL", '{"draft_url":"draft"}', invalid),
        ("a body that is no JSON", "draft_url", no_object),
        ("a body that is no object", "[]", no_object),
    ]:
        check(name, call(request).summary(), expected)
    missing = save("20250928000404")
    check("a missing draft", missing.summary(), (404, "Draft does not exist"))
    drafts.put("20250928000500", b'{"tracks": [')
    check("a truncated document", save("20250928000500").summary(), (500, "Save failed"))
    for method in ["GET", "PUT", "DELETE"]:
        response = call(None, method)
        check(f"{method} is not allowed", response.summary(), (405, "Method Not Allowed"))
        check(f"{method} names the allowed method", response.headers["Allow"], "POST")

    unknown = call("{}", url=stack.url + "s")
    check("API Gateway answers an unknown path", unknown.summary(), (404, "Not Found"))
    without_key = account.request("POST", stack.url, "{}", {"Origin": ORIGIN})
    check("API Gateway refuses a request without key", without_key.summary(), (403, "Forbidden"))
    check("API Gateway refuses a wrong key", call("{}", **{"x-api-key": "x" * 40}).summary(), (403, "Forbidden"))
    for name, response in [("a success", again), ("a 404 of the function", missing),
                           ("a 404 of API Gateway", unknown), ("a 403 of API Gateway", without_key)]:
        check(f"{name} has the CORS header", response.headers["Access-Control-Allow-Origin"], ORIGIN)
    preflight = account.request("OPTIONS", stack.url, headers={
        "Origin": ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key"})
    check("the preflight request needs no key", preflight.status, 204)
    check("the preflight allows the origin", preflight.headers["Access-Control-Allow-Origin"], ORIGIN)
    check("the preflight allows POST", preflight.headers["Access-Control-Allow-Methods"], "POST")
    allowed = re.split(r",\s*", (preflight.headers["Access-Control-Allow-Headers"] or "").lower())
    check("the preflight allows all headers", set(allowed), {"authorization", "*"})

    api = stack.resource("Api")
    stages = gateway.get_stages(restApiId=api)["item"]
    check("the API has one stage", [stage["stageName"] for stage in stages], ["openapi"])


def check_invocations(account, stack):
    """Invokes the function directly and asynchronously."""
    begin("invocations")
    drafts = Drafts(account, stack)
    function = account.aws.client("lambda")
    sqs = account.aws.client("sqs")

    def invoke(event):
        response = function.invoke(FunctionName=stack.function, Payload=json.dumps(event))
        return json.loads(response["Payload"].read())

    drafts.put("20250928000002", document("direct"))
    by_id = invoke({"draft_id": "20250928000002"})
    check("a draft_id is saved", (by_id.get("draft_id"), by_id.get("saved")), ("20250928000002", "created"))
    by_url = invoke({"draft_url": draft_url("20250928000002")})
    check("a draft_url is saved", (by_url.get("draft_url"), by_url.get("saved")),
          (draft_url("20250928000002"), "unchanged"))
    check("both name the same version", by_id.get("version"), by_url.get("version"))
    drafts.put("20250928000501", b"")
    for name, event, expected in [
        ("an unknown event", {"unknown": 1}, "InvalidRequest"),
        ("an invalid draft_id", {"draft_id": "../1"}, "InvalidRequest"),
        ("a missing draft", {"draft_id": "20250928000404"}, "DraftNotFound"),
        ("an empty document", {"draft_id": "20250928000501"}, "SaveFailed"),
    ]:
        check(f"the errorType of {name}", invoke(event).get("errorType"), expected)

    drafts.put("20250928000003", document("asynchronous"))
    for draft_id in ["20250928000404", "20250928000003"]:
        function.invoke(FunctionName=stack.function, InvocationType="Event",
                        Payload=json.dumps({"draft_id": draft_id}))
    saved = wait_for(lambda: drafts.versions("20250928000003"))
    check("an asynchronous invocation saves the draft", list((saved or {}).values()), [document("asynchronous")])
    queue = stack.outputs["DeadLettersUrl"]
    receive = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0}
    messages = wait_for(lambda: sqs.receive_message(**receive).get("Messages")) or []
    bodies = [json.loads(message["Body"]) for message in messages]
    # AWS sends the event. The emulator sends the record of a destination, which contains it.
    check("only the failed event is in the dead-letter queue",
          [body.get("requestPayload", body) for body in bodies], [{"draft_id": "20250928000404"}])


def check_runbook(account, stack):
    """Runs the documented commands for a smoke test and for dead letters."""
    begin("runbook")
    runbook, drafts = Runbook(account, stack), Drafts(account, stack)
    status, output = runbook.run("Smoke test")
    expected = [" 200", "draft-saved: created", "/draft_content.json"]
    check("the smoke test saves a draft and lists its version",
          (status, [text for text in expected if text not in output.lower()]), (0, []))

    sqs, queue = account.aws.client("sqs"), stack.outputs["DeadLettersUrl"]
    sqs.purge_queue(QueueUrl=queue)
    drafts.put("20250928000010", document("dead letter"))
    # In the form of AWS: the emulator puts a record around the event.
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"draft_id": "20250928000010"}))
    status, output = runbook.run("Dead letters")
    check("a dead letter is invoked again", (status, '"saved": "created"' in output), (0, True))
    left = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0).get("Messages")
    check("it is deleted from the queue", left, None)
    check("its draft is saved", list(drafts.versions("20250928000010").values()), [document("dead letter")])


def check_policies(account, stack):
    """Checks the bucket policy and the role with requests that they must allow or deny."""
    begin("policies")
    s3 = account.aws.client("s3")
    drafts = Drafts(account, stack)
    bucket = {"Bucket": stack.saved_bucket}
    [existing] = drafts.versions("20250928000002")
    new = "saved/20250928000002/20990101T000000Z-0/draft_content.json"

    def put(key, client=s3, **options):
        return error_of(client.put_object, **bucket, Key=key, Body=b"{}", **options)

    check("only the function's role can create a version", put(new, IfNoneMatch="*"), "AccessDenied")
    check("only the function's role can create a copy", put("saved-files/1/0/a", IfNoneMatch="*"), "AccessDenied")
    version_id = s3.head_object(**bucket, Key=existing)["VersionId"]
    check("a version cannot be deleted", error_of(s3.delete_object, **bucket, Key=existing), "AccessDenied")
    check("an object version cannot be deleted",
          error_of(s3.delete_object, **bucket, Key=existing, VersionId=version_id), "AccessDenied")
    empty_draft = "drafts/20250928000501/draft_content.json"
    check("a draft can be deleted", error_of(s3.delete_object, **bucket, Key=empty_draft), None)
    plain = account.aws.client("s3")
    # The emulator takes the header for the protocol of the request.
    plain.meta.events.register(
        "before-send.s3", lambda request, **_: request.headers.update({"X-Forwarded-Proto": "http"}))
    check("plain HTTP is denied", error_of(plain.get_object, **bucket, Key=existing), "AccessDenied")
    public = s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"]
    check("public access is blocked", set(public.values()), {True})
    check("versioning is enabled", s3.get_bucket_versioning(**bucket).get("Status"), "Enabled")

    session = session_of_role(account, stack)
    s3, sqs, function = (session.client(service) for service in ["s3", "sqs", "lambda"])
    draft = {**bucket, "Key": "drafts/20250928000002/draft_content.json"}

    check("the role can read a draft", error_of(s3.get_object, **draft), None)
    missing = {**bucket, "Key": "drafts/20250928000404/draft_content.json"}
    check("the role sees that a draft is missing", error_of(s3.get_object, **missing), "NoSuchKey")
    check("the role can create a version", put(new, s3, IfNoneMatch="*"), None)
    check("it cannot create it again", put(new, s3, IfNoneMatch="*"), "PreconditionFailed")
    other = new.replace("draft_content", "draft_info")
    check("a version needs the condition", put(other, s3), "AccessDenied")
    check("a version can have the name draft_info.json", put(other, s3, IfNoneMatch="*"), None)
    copy = {**bucket, "Key": existing, "CopySource": f"{stack.draft_bucket}/{draft['Key']}"}
    check("the role cannot copy over a version", error_of(s3.copy_object, **copy), "AccessDenied")
    drafts.put_key("drafts/20250928000002/cover.jpg", b"cover")
    drafts.put_key("other/draft_content.json", b"{}")
    for name, call, arguments in [
        ("write a draft", s3.put_object, {**draft, "Body": b"{}"}),
        ("delete a draft", s3.delete_object, draft),
        ("read a saved version", s3.get_object, {**bucket, "Key": existing}),
        ("overwrite a version", s3.put_object, {**bucket, "Key": existing, "Body": b"{}"}),
        ("delete a version", s3.delete_object, {**bucket, "Key": existing}),
        ("write another key of a version", s3.put_object,
         {**bucket, "Key": "saved/20250928000002/other", "Body": b"", "IfNoneMatch": "*"}),
        ("read another file of a draft", s3.get_object, {**bucket, "Key": "drafts/20250928000002/cover.jpg"}),
        ("read another key", s3.get_object, {**bucket, "Key": "other/draft_content.json"}),
        ("list the bucket", s3.list_objects_v2, bucket),
        ("list the versions", s3.list_objects_v2, {**bucket, "Prefix": "saved/"}),
        ("replace the bucket policy", s3.put_bucket_policy, {**bucket, "Policy": "{}"}),
        ("delete the bucket policy", s3.delete_bucket_policy, bucket),
        ("change the lifecycle", s3.delete_bucket_lifecycle, bucket),
        ("list the buckets", s3.list_buckets, {}),
        ("read the dead letters", sqs.receive_message, {"QueueUrl": stack.outputs["DeadLettersUrl"]}),
        ("invoke the function", function.invoke, {"FunctionName": stack.function}),
        ("change its own policy", session.client("iam").delete_role_policy,
         {"RoleName": stack.resource("Role"), "PolicyName": "save-draft"}),
    ]:
        denied = error_of(call, **arguments)
        check(f"the role cannot {name}", denied in ("AccessDenied", "AccessDeniedException", "403"))

    check_permissions(account, stack, "save-draft", [
        ("ReadDrafts", "20250928000002", "SaveFailed"),
        ("FindMissingDrafts", "20250928000404", "SaveFailed"),
        ("CreateVersions", "20250928000004", "SaveFailed"),
        (None, "20250928000004", "created"),
        (None, "20250928000404", "DraftNotFound"),
    ], lambda: drafts.put("20250928000004", document("permissions")))


def session_of_role(account, stack):
    """Returns a session with the permissions of the function."""
    # The test's user may assume the role for as long as it takes to get the session.
    iam, role = account.aws.client("iam"), stack.resource("Role")
    trust = json.dumps(iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"])
    allow_user = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": account.user_arn}, "Action": "sts:AssumeRole"}]}
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(allow_user))
    arn = iam.get_role(RoleName=role)["Role"]["Arn"]
    token = account.aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=trust)
    return account.session(Credentials(token["AccessKeyId"], token["SecretAccessKey"], token["SessionToken"]))


def check_permissions(account, stack, policy_name, rows, prepare):
    """Removes statements from a policy of the role, one in each row: without it, the save has another result.

    `prepare` is called before each save.
    """
    iam, function = account.aws.client("iam"), account.aws.client("lambda")
    name = {"RoleName": stack.resource("Role"), "PolicyName": policy_name}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    for sid, draft_id, expected in rows:
        prepare()
        statements = [statement for statement in policy["Statement"] if statement["Sid"] != sid]
        iam.put_role_policy(**name, PolicyDocument=json.dumps({**policy, "Statement": statements}))
        response = function.invoke(FunctionName=stack.function, Payload=json.dumps({"draft_id": draft_id}))
        result = json.loads(response["Payload"].read())
        check(f"without {sid or 'nothing'}, {draft_id} is answered with {expected}",
              result.get("errorType") or result.get("saved"), expected)


def check_failed_creation(account):
    """Creates a stack that fails, and checks that it leaves nothing."""
    begin("failed creation")
    stack = Stack(account, "failed")
    before = inventory(account)
    # The web ACL does not exist, so the last resource of the stack cannot be created.
    missing = f"arn:aws:wafv2:{REGION}:{ACCOUNT}:regional/webacl/missing/1"
    check("sam deploy fails", stack.deploy(Autosave="true", WebAclArn=missing) != 0)
    status = stack.cloudformation.describe_stacks(StackName="failed")["Stacks"][0]["StackStatus"]
    check("the stack is rolled back", status, "ROLLBACK_COMPLETE")
    stack.delete()
    check("nothing is left", inventory(account), before)
    check("a reserved concurrency below that of autosave is refused",
          stack.deploy(Autosave="true", ReservedConcurrency="9") != 0 and "at least 10" in stack.log)
    stack.delete()


def inventory(account):
    """Returns the names of the resources in the account, without those that SAM CLI keeps for itself."""
    client = account.aws.client
    names = {
        "buckets": [bucket["Name"] for bucket in client("s3").list_buckets()["Buckets"]],
        "roles": [role["RoleName"] for role in client("iam").list_roles()["Roles"]],
        "functions": [function["FunctionName"] for function in client("lambda").list_functions()["Functions"]],
        "APIs": [api["name"] for api in client("apigateway").get_rest_apis()["items"]],
        "log groups": [group["logGroupName"] for group in client("logs").describe_log_groups()["logGroups"]],
        "queues": client("sqs").list_queues().get("QueueUrls", []),
        "rules": [rule["Name"] for rule in client("events").list_rules()["Rules"]],
        "alarms": [alarm["AlarmName"] for alarm in client("cloudwatch").describe_alarms()["MetricAlarms"]],
    }
    return {kind: sorted(name or "" for name in found if "aws-sam-cli" not in (name or ""))
            for kind, found in names.items()}


def check_maintenance(account, stack):
    """Checks updates of Maintenance and Autosave: saves are answered with 503, and events wait."""
    begin("maintenance")
    check("sam deploy updates the stack", stack.deploy(Maintenance="true", Autosave="true"), 0)
    function = account.aws.client("lambda")
    gateway = account.aws.client("apigateway")
    key = gateway.get_api_key(apiKey=stack.outputs["ApiKeyId"], includeValue=True)["value"]
    request = json.dumps({"draft_url": draft_url("20250928000002")})
    response = account.request("POST", stack.url, request, {"x-api-key": key, "Origin": ORIGIN})
    check("a save is answered with 503", response.summary(), (503, "Service unavailable"))
    check("the answer has Retry-After", (response.headers["Retry-After"] or "").isdigit())
    payload = function.invoke(FunctionName=stack.function, Payload=json.dumps({"draft_id": "20250928000002"}))
    check("the errorType of a direct invocation", json.loads(payload["Payload"].read()).get("errorType"),
          "ServiceUnavailable")
    queue = stack.resource("AutosaveQueue")
    attributes = account.aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    policy = json.loads(attributes["RedrivePolicy"])
    check("the autosave queue has a dead-letter queue",
          (policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])), (stack.outputs["AutosaveDeadLettersArn"], 5))
    check("a message is hidden for six timeouts and the batching window", attributes["VisibilityTimeout"], "155")
    # The message is received every second, and more than five times.
    redrive = json.dumps({"deadLetterTargetArn": stack.outputs["AutosaveDeadLettersArn"], "maxReceiveCount": 1000})
    account.aws.client("sqs").set_queue_attributes(
        QueueUrl=queue, Attributes={"VisibilityTimeout": "1", "RedrivePolicy": redrive})
    Drafts(account, stack).put("20250928000005", document("maintenance"))


def check_authorization(account, stack):
    """Checks an update to AWS_IAM, the end of the maintenance, and the removal of CORS."""
    begin("update")
    check("sam deploy updates the stack",
          stack.deploy(ApiAuth="AWS_IAM", Maintenance="false", CorsOrigin='""', VersionDeleterArns=account.user_arn,
                       VersionImporterArns=account.user_arn), 0)
    drafts = Drafts(account, stack)
    body = json.dumps({"draft_url": draft_url("20250928000002")})
    unsigned = account.request("POST", stack.url, body, {"Origin": ORIGIN})
    check("AWS_IAM refuses a request without signature", unsigned.status, 403)
    check("the answer is a detail", list(unsigned.json()), ["detail"])
    check("no CORS header is left", unsigned.headers["Access-Control-Allow-Origin"], None)
    iam = account.aws.client("iam")
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
    _, stranger = account.create_user(iam, "stranger", nothing)
    check("AWS_IAM refuses a user without permission", account.signed(stranger, "POST", stack.url, body).status, 403)
    signed = account.signed(account.credentials, "POST", stack.url, body)
    check("AWS_IAM accepts a signed request", (signed.status, signed.headers["Draft-Saved"]), (200, "unchanged"))
    saved = wait_for(lambda: drafts.versions("20250928000005"))
    check("a draft that was written in the maintenance is saved afterwards",
          list((saved or {}).values()), [document("maintenance")])
    [key] = drafts.versions("20250928000003")
    check("a principal of VersionDeleterArns can delete a version",
          error_of(drafts.s3.delete_object, Bucket=stack.saved_bucket, Key=key), None)
    imported = {"Bucket": stack.saved_bucket, "Key": "saved/imported/20990101T000000Z-0/draft_content.json", "Body": b"{}"}
    check("a principal of VersionImporterArns needs the condition",
          error_of(drafts.s3.put_object, **imported), "AccessDenied")
    check("with it, the principal can create a version",
          error_of(drafts.s3.put_object, **imported, IfNoneMatch="*"), None)
    check("the history of a draft is removed as documented",
          Runbook(account, stack).error_of("Whole drafts", ID="smoke-test"), None)
    check("no version is left", drafts.keys("saved/smoke-test/"), [])


def check_autosave(account, stack):
    """Writes objects and sends messages to the autosave queue."""
    begin("autosave")
    drafts = Drafts(account, stack)
    sqs, function = account.aws.client("sqs"), account.aws.client("lambda")
    events = account.aws.client("events")
    queue, dead_letters = stack.resource("AutosaveQueue"), stack.outputs["AutosaveDeadLettersUrl"]
    redrive = json.dumps({"deadLetterTargetArn": stack.outputs["AutosaveDeadLettersArn"], "maxReceiveCount": 5})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": redrive})

    [target] = events.list_targets_by_rule(Rule=stack.resource("AutosaveRule"))["Targets"]
    # The emulator delivers nothing to the dead-letter queue of a rule.
    check("undelivered events go to the dead-letter queue",
          target["DeadLetterConfig"]["Arn"], stack.outputs["AutosaveDeadLettersArn"])
    attributes = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["Policy"])["Attributes"]
    admitted = {arn for statement in json.loads(attributes["Policy"])["Statement"] if statement["Effect"] == "Allow"
                for arn in statement["Resource"]}
    check("the rule may send to both queues",
          admitted, {stack.outputs["AutosaveQueueArn"], stack.outputs["AutosaveDeadLettersArn"]})
    others = ["drafts/20250928000006/draft_meta_info.json", "drafts/20250928000006/assets/draft_content.json.bak",
              "other/20250928000006/draft_content.json"]
    for key in others:
        drafts.put_key(key, document("other"))
    drafts.put("20250928000007", document("autosaved"))
    saved = wait_for(lambda: drafts.versions("20250928000007"))
    check("a written draft is saved", list((saved or {}).values()), [document("autosaved")])
    check("other objects are not saved", drafts.keys("saved/20250928000006/"), [])
    skipped = [line for line in log_lines(account, stack) if "20250928000006" in json.dumps(line)]
    check("other objects do not invoke the function", skipped, [])
    drafts.put("20250928000012", document("autosaved by another name"), "draft_info.json")
    saved = wait_for(lambda: drafts.versions("20250928000012")) or {}
    check("a draft_info.json is saved",
          [(key.rsplit("/", 1)[1], body) for key, body in saved.items()],
          [("draft_info.json", document("autosaved by another name"))])
    # The wildcard of the rule matches slashes.
    drafts.put_key("drafts/20250928000006/subdraft/1/draft_info.json", document("nested"))
    skipped = wait_for(lambda: [line for line in log_lines(account, stack) if "20250928000006" in json.dumps(line)]) or []
    check("a document in a folder of a draft is skipped", "skipped" in json.dumps(skipped))
    check("it is not saved", drafts.keys("saved/20250928000006/"), [])
    drafts.put("20250928000007", document("autosaved again"))
    saved = wait_for(lambda: len(drafts.versions("20250928000007")) == 2)
    check("the next state is saved", saved, True)

    # One batch with a good and a broken draft, sent while the event source is disabled.
    source = stack.resource("AutosaveSource")
    rule = stack.resource("AutosaveRule")
    events.disable_rule(Name=rule)
    drafts.put("20250928000008", document("good"))
    drafts.put("20250928000009", b'{"tracks":')
    function.update_event_source_mapping(UUID=source, Enabled=False)
    for draft_id in ["20250928000008", "20250928000009"]:
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"draft_id": draft_id}))
    function.update_event_source_mapping(UUID=source, Enabled=True)
    saved = wait_for(lambda: drafts.versions("20250928000008"))
    check("the good draft of a batch is saved", list((saved or {}).values()), [document("good")])

    def bodies():
        messages = sqs.receive_message(QueueUrl=dead_letters, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return [json.loads(message["Body"]) for message in messages.get("Messages", [])]

    check("only the broken draft is in the dead-letter queue",
          wait_for(bodies), [{"draft_id": "20250928000009"}])
    drafts.put("20250928000009", document("repaired"))
    # Moves the messages as StartMessageMoveTask does, which the emulator does not have.
    for message in sqs.receive_message(QueueUrl=dead_letters, MaxNumberOfMessages=10).get("Messages", []):
        sqs.send_message(QueueUrl=queue, MessageBody=message["Body"])
        sqs.delete_message(QueueUrl=dead_letters, ReceiptHandle=message["ReceiptHandle"])
    saved = wait_for(lambda: drafts.versions("20250928000009"))
    check("the repaired draft is saved", list((saved or {}).values()), [document("repaired")])
    check("the dead-letter queue is empty", bodies(), [])
    events.enable_rule(Name=rule)


def log_lines(account, stack):
    """Returns the records in the function's log."""
    pages = account.aws.client("logs").get_paginator("filter_log_events").paginate(
        logGroupName=f"/aws/lambda/{stack.name}")
    messages = [event["message"] for page in pages for event in page["events"]]
    return [json.loads(message) for message in messages if message.startswith("{")]


def check_operations(account, stack):
    """Checks alarms, dashboard and logs."""
    begin("operations")
    cloudwatch, logs = account.aws.client("cloudwatch"), account.aws.client("logs")
    gateway = account.aws.client("apigateway")
    groups = {group["logGroupName"]: group.get("retentionInDays") for group in logs.describe_log_groups()["logGroups"]}
    function_group, api_group = f"/aws/lambda/{stack.name}", f"/aws/apigateway/{stack.name}"
    check("the log group expires", groups.get(function_group), 30)
    check("there is no other log group", [name for name in groups if name != function_group], [])

    # A save that fails, for the metrics.
    drafts = Drafts(account, stack)
    drafts.put("20250928000500", b'{"tracks": [')
    account.aws.client("lambda").invoke(FunctionName=stack.function, Payload='{"draft_id":"20250928000500"}')
    written = set()
    for line in log_lines(account, stack):
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
            names = directive["Dimensions"][0]
            dimensions = [{"Name": name, "Value": line[name]} for name in names]
            values = {metric["Name"]: line[metric["Name"]] for metric in directive["Metrics"]}
            written |= {(directive["Namespace"], name, json.dumps(dimensions)) for name in values}
    # The emulator does not read the embedded metric format: this sends the last record to CloudWatch.
    data = [{"MetricName": name, "Dimensions": dimensions, "Value": value} for name, value in values.items()]
    cloudwatch.put_metric_data(Namespace=directive["Namespace"], MetricData=data)
    for metric in cloudwatch.list_metrics(Namespace="AWS/Lambda")["Metrics"]:
        written.add((metric["Namespace"], metric["MetricName"], json.dumps(metric["Dimensions"])))

    queues = {url.rsplit("/", 1)[1] for url in
              [stack.outputs["DeadLettersUrl"], stack.outputs["AutosaveDeadLettersUrl"]]}
    alarms = {alarm["AlarmName"]: alarm for alarm in cloudwatch.describe_alarms()["MetricAlarms"]}
    check("there are seven alarms", len(alarms), 7)
    watched = set()
    for name, alarm in alarms.items():
        if alarm["Namespace"] == "AWS/SQS":
            # The emulator's queues have no metrics.
            watched.add(alarm["Dimensions"][0]["Value"])
        else:
            metric = (alarm["Namespace"], alarm["MetricName"], json.dumps(alarm["Dimensions"]))
            check(f"{name} watches a metric that is written", metric in written)
        check(f"{name} notifies the topic", alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC])
    check("both dead-letter queues are watched", watched, queues)
    fired = {alarm["MetricName"]: name for name, alarm in alarms.items() if alarm["StateValue"] == "ALARM"}
    check("the alarms on errors and failed saves fire", sorted(fired), ["Errors", "Failed"])
    sqs = account.aws.client("sqs")
    queue = sqs.get_queue_url(QueueName="alarms")["QueueUrl"]

    def notification():
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        texts = [json.loads(message["Body"])["Message"] for message in received]
        return [text for text in texts if fired.get("Failed", "Failed") in text]

    check("the topic receives the alarm", bool(wait_for(notification)))

    body = json.loads(cloudwatch.get_dashboard(DashboardName=f"{stack.name}-{REGION}")["DashboardBody"])
    shown = {tuple(metric[:4]) for widget in body["widgets"] for metric in whole_metrics(widget)}
    own = {(namespace, name, "FunctionName", stack.function)
           for namespace, name, _ in written if namespace == "SaveDraft"}
    check("the dashboard shows the metrics that are written", own - shown, set())
    stage = gateway.get_stage(restApiId=stack.resource("Api"), stageName="openapi")
    check("there is no access log", (stage.get("accessLogSettings") or {}).get("destinationArn"), None)
    settings = stage["methodSettings"]["*/*"]
    check("the execution log is off", settings.get("loggingLevel", "OFF"), "OFF")
    check("detailed metrics are on", settings["metricsEnabled"])


def whole_metrics(widget):
    """Yields the metrics of a widget: "." stands for a value of the metric before, "..." for all of them."""
    before = []
    for metric in widget["properties"]["metrics"]:
        values = [value for value in metric if isinstance(value, str)]
        before = before if values == ["..."] else [
            before[index] if value == "." else value for index, value in enumerate(values)]
        yield before


def check_throttling(account, stack):
    """Checks an update to an open API without autosave but with an access log, and throttling."""
    begin("throttling")
    check("sam deploy updates the stack",
          stack.deploy(ApiAuth="NONE", Autosave="false", AccessLog="true", ThrottleRate="1", ThrottleBurst="3"), 0)
    stage = account.aws.client("apigateway").get_stage(restApiId=stack.resource("Api"), stageName="openapi")
    access = stage.get("accessLogSettings") or {}
    group = (access.get("destinationArn") or "").split(":")[6:7]
    check("the access log is a log group of the stack", group, [f"/aws/apigateway/{stack.name}"])
    entry = json.loads(re.sub(r"\$context[.\w]+", "-", access.get("format") or "{}"))
    check("the format of the access log is JSON", "lambdaRequestId" in entry)
    check("autosave is removed", [stack.resource(name) for name in ["AutosaveQueue", "AutosaveRule"]], [None, None])
    body = json.dumps({"draft_url": draft_url("20250928000002")})
    answers = [account.request("POST", stack.url, body) for _ in range(8)]
    check("NONE needs no key", answers[0].status, 200)
    refused = [answer for answer in answers if answer.status != 200]
    check("API Gateway throttles", {answer.summary() for answer in refused}, {(429, "Too Many Requests")})
    check("the answer has Retry-After", {answer.headers["Retry-After"] for answer in refused}, {"1"})


def check_deletion(account, stack):
    """Deletes the stack, and creates it again on its bucket, with all files of the drafts."""
    begin("deletion")
    drafts = Drafts(account, stack)
    before = {key: drafts.versions(key) for key in ["20250928000001", "20250928000002"]}
    check("the stack is deleted", stack.delete(), "ValidationError")
    check("the saved versions are kept", {key: drafts.versions(key) for key in before}, before)
    key = next(iter(before["20250928000002"]))
    check("the bucket policy is kept",
          error_of(drafts.s3.put_object, Bucket=stack.saved_bucket, Key=key, Body=b""), "AccessDenied")
    left = inventory(account)
    check("functions, APIs, rules, alarms, log groups and roles are deleted",
          [left[kind] for kind in ["functions", "APIs", "rules", "alarms", "log groups", "roles"]], [[]] * 6)
    check("only the queue of the test is left", [url.rsplit("/", 1)[1] for url in left["queues"]], ["alarms"])

    bucket = stack.saved_bucket
    waf = account.aws.client("wafv2")
    metrics = {"SampledRequestsEnabled": False, "CloudWatchMetricsEnabled": False, "MetricName": "acl"}
    acl = waf.create_web_acl(Name="acl", Scope="REGIONAL", DefaultAction={"Allow": {}}, VisibilityConfig=metrics)
    stack.must_deploy(SavedBucket=bucket, ApiAuth="NONE", WebAclArn=acl["Summary"]["ARN"])
    check("the stack uses its earlier bucket", [stack.draft_bucket, stack.saved_bucket], [bucket] * 2)
    stage = f"arn:aws:apigateway:{REGION}::/restapis/{stack.resource('Api')}/stages/openapi"
    protected = waf.get_web_acl_for_resource(ResourceArn=stage).get("WebACL", {})
    check("its API has the web ACL", protected.get("Name"), "acl")
    body = json.dumps({"draft_url": draft_url("20250928000001")})
    answer = account.request("POST", stack.url, body)
    check("it finds the saved version", (answer.status, answer.headers["Draft-Saved"]), (200, "unchanged"))
    drafts.put("20250928000001", document("third"))
    check("it saves the next state", account.request("POST", stack.url, body).headers["Draft-Saved"], "created")

    check_whole_drafts(account, stack, body)
    versions = len(drafts.keys("saved/20250928000001/"))

    begin("deletion")
    runbook = Runbook(account, stack)
    check("its deletion succeeds", runbook.error_of("Remove", answers="y\ny\n"), None)
    check("the stack is gone", stack.delete(), "ValidationError")
    check("its deletion keeps the bucket", len(drafts.keys("saved/20250928000001/")), versions)
    check("its policy and its lifecycle are replaced", runbook.error_of("Remove", 1, BUCKET=bucket), None)
    refused = runbook.error_of("Remove", 2, BUCKET=bucket) or ""
    check("a bucket with objects cannot be deleted", "BucketNotEmpty" in refused)
    rules = drafts.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    check("its objects expire", [rule["ID"] for rule in rules], ["objects", "markers"])
    check("it has no policy", error_of(drafts.s3.get_bucket_policy, Bucket=bucket), "NoSuchBucketPolicy")


def check_whole_drafts(account, stack, body):
    """Saves the files of a draft, and checks the permissions for them."""
    begin("whole drafts")
    drafts = Drafts(account, stack)
    check("sam deploy updates the stack", stack.deploy(SaveFiles="true"), 0)
    check("a draft without other files keeps its version",
          account.request("POST", stack.url, body).headers["Draft-Saved"], "unchanged")
    drafts.put_key("drafts/20250928000001/assets/video.mp4", b"video")
    answer = account.request("POST", stack.url, body)
    check("a new file creates a version", (answer.status, answer.headers["Draft-Saved"]), (200, "created"))
    manifest = f"saved/20250928000001/{answer.headers['Draft-Version']}/files.json"
    files = json.loads(drafts.get(manifest))["files"]
    check("the manifest has the file", [file["path"] for file in files], ["assets/video.mp4"])
    copy = files[0]["key"]
    check("the copy has the bytes of the file", drafts.get(copy), b"video")
    check("the copy cannot be overwritten",
          error_of(drafts.s3.put_object, Bucket=stack.saved_bucket, Key=copy, Body=b""), "AccessDenied")

    s3 = session_of_role(account, stack).client("s3")
    large = {"Bucket": stack.saved_bucket, "Key": "saved-files/20250928000001/etag/large.mp4"}
    source = f"{stack.draft_bucket}/drafts/20250928000001/assets/video.mp4"

    def start():
        upload = {**large, "UploadId": s3.create_multipart_upload(**large)["UploadId"]}
        part = s3.upload_part_copy(**upload, PartNumber=1, CopySource=source)["CopyPartResult"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        return upload, functools.partial(error_of, s3.complete_multipart_upload, **upload, MultipartUpload=parts)

    upload, complete = start()
    check("a copy in parts cannot be completed without the condition", complete(), "AccessDenied")
    check("it can be aborted", error_of(s3.abort_multipart_upload, **upload), None)
    upload, complete = start()
    check("with the condition it can be completed", complete(IfNoneMatch="*"), None)
    check("it has the bytes of the file", drafts.get(large["Key"]), b"video")
    upload, complete = start()
    check("it cannot be completed again", complete(IfNoneMatch="*"), "PreconditionFailed")
    check("the role cannot write a copy without the condition",
          error_of(s3.put_object, **large, Body=b""), "AccessDenied")
    elsewhere = {**upload, "Key": "saved/20250928000001/version/draft_content.json"}
    check("the role cannot abort uploads of versions",
          error_of(s3.abort_multipart_upload, **elsewhere), "AccessDenied")

    draft_id = "20250928000001"
    # With fewer files, the copies are not listed.
    for number in range(25):
        drafts.put_key(f"drafts/{draft_id}/frames/{number}", b"frame")
    check_permissions(account, stack, "save-files", [
        ("ReadFiles", draft_id, "SaveFailed"),
        ("ListCopies", draft_id, "SaveFailed"),
        ("CreateCopies", draft_id, "SaveFailed"),
        ("CreateManifests", draft_id, "SaveFailed"),
        (None, draft_id, "created"),
    ], lambda: drafts.put_key(f"drafts/{draft_id}/assets/{len(drafts.keys(f'drafts/{draft_id}/'))}", b"new"))
    # The manifest of a save that was interrupted before it wrote the document, which is its last step.
    invoke = functools.partial(account.aws.client("lambda").invoke, FunctionName=stack.function)
    response = invoke(Payload=json.dumps({"draft_id": draft_id}))
    version = json.loads(response["Payload"].read())["version"]
    interrupted = {"Bucket": stack.saved_bucket, "Key": f"saved/{draft_id}/{version}/draft_content.json"}
    check_permissions(account, stack, "save-files", [
        ("ReadCopiesAndManifests", draft_id, "SaveFailed"),
        (None, draft_id, "created"),
    ], lambda: drafts.s3.delete_object(**interrupted))


def check_buckets(account):
    """Creates stacks whose drafts, or drafts and versions, are in existing buckets."""
    s3 = account.aws.client("s3")
    for name in ["team-drafts", "team-versions"]:
        s3.create_bucket(Bucket=name)
    # The documented setting.
    s3.put_bucket_notification_configuration(
        Bucket="team-drafts", NotificationConfiguration={"EventBridgeConfiguration": {}})
    for name, saved in [("drafts of a team", None), ("existing buckets", "team-versions")]:
        begin(name)
        before = inventory(account)["buckets"]
        stack = Stack(account, name.replace(" ", "-"))
        parameters = {"SavedBucket": saved} if saved else {}
        stack.must_deploy(DraftBucket="team-drafts", DraftPrefix="editor/drafts/", ApiAuth="NONE", Autosave="true",
                          SaveFiles="true", Timeout="900", **parameters)
        created = sorted(set(inventory(account)["buckets"]) - set(before))
        check("only the bucket of the versions is created", created, [] if saved else [stack.saved_bucket])
        check("the drafts are in the existing bucket", stack.draft_bucket, "team-drafts")
        check("the versions are in a bucket of their own", stack.saved_bucket != stack.draft_bucket)
        queue = account.aws.client("sqs").get_queue_attributes(
            QueueUrl=stack.resource("AutosaveQueue"), AttributeNames=["VisibilityTimeout"])["Attributes"]
        check("the visibility timeout follows from Timeout", queue["VisibilityTimeout"], "5405")

        drafts = Drafts(account, stack, "editor/drafts/")
        draft_id = f"2025092800002{len(parameters)}"
        drafts.put_key(f"editor/drafts/{draft_id}/assets/video.mp4", b"video")
        drafts.put(draft_id, document(name))
        saved_keys = wait_for(lambda: [key for key in drafts.keys(f"saved/{draft_id}/") if "draft_content" in key]) or []
        check("a written draft is saved", [drafts.get(key) for key in saved_keys], [document(name)])
        answer = account.request("POST", stack.url, json.dumps({"draft_url": draft_url(draft_id)}))
        check("a request finds the version", (answer.status, answer.headers["Draft-Saved"]), (200, "unchanged"))
        listed = s3.list_objects_v2(Bucket="team-drafts").get("Contents", [])
        check("nothing is written into the drafts' bucket",
              [item["Key"] for item in listed if not item["Key"].startswith("editor/drafts/")], [])
        if not saved:
            key = {"Bucket": stack.saved_bucket, "Key": saved_keys[0] if saved_keys else "saved/1/2/draft_content.json"}
            check("the versions are protected", error_of(s3.delete_object, **key), "AccessDenied")
            notification = s3.get_bucket_notification_configuration(Bucket=stack.saved_bucket)
            check("their bucket sends no events", "EventBridgeConfiguration" in notification, False)
            check_drafts(account, stack, draft_id)
        check("the stack is deleted", stack.delete(), "ValidationError")


def check_drafts(account, stack, draft_id):
    """Runs each command of `drafts` without each permission that it needs, and then with all of them."""
    begin("drafts")
    drafts = Drafts(account, stack, "editor/drafts/")
    command = Command(account, stack, "editor/drafts/")
    stack.must_deploy(VersionDeleterArns=command.arn)

    def save(body):
        drafts.put(draft_id, body)
        response = account.aws.client("lambda").invoke(
            FunctionName=stack.function, Payload=json.dumps({"draft_id": draft_id}))
        return json.loads(response["Payload"].read())["version"]

    older = save(document("older"))
    drafts.put_key(f"editor/drafts/{draft_id}/assets/another.mp4", b"another")
    newer = save(document("newer"))

    def change_draft(text):
        """Changes the document and a file, and adds a file."""
        drafts.put(draft_id, document(text))
        for path in ["assets/video.mp4", "added.txt"]:
            drafts.put_key(f"editor/drafts/{draft_id}/{path}", text.encode())

    for arguments, permissions in commands(draft_id, older, newer):
        name = " ".join(word for word in arguments if word not in (draft_id, older, newer))
        for missing in [*permissions, None]:
            if arguments[0] == "restore":
                change_draft(f"changed before {name} without {missing}")
            command.allow(permission for permission in permissions if permission != missing)
            status, output = command.run(*arguments)
            if missing:
                check(f"{name} is refused without {missing.split()[0]} on {missing.split()[1]}", status, 2)
            else:
                check(f"{name} needs no other permission", (status, "" if status == 0 else output), (0, ""))


def create_topic(account):
    """Creates the topic for the alarms, and a queue that receives its messages."""
    sns, sqs = account.aws.client("sns"), account.aws.client("sqs")
    queue = sqs.create_queue(QueueName="alarms")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",
         "Resource": arn}]}
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(allow)})
    sns.create_topic(Name="alarms")
    sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=arn)


def run(account):
    stack = Stack(account, "drafts")
    areas = [
        lambda: check_release(account),
        lambda: check_failed_creation(account),
        lambda: create_topic(account),
        lambda: stack.must_deploy(CorsOrigin=ORIGIN, AlarmTopicArn=TOPIC),
    ]
    for check_area in [check_api, check_invocations, check_runbook, check_policies, check_maintenance,
                       check_authorization, check_autosave, check_operations, check_throttling, check_deletion]:
        areas.append(functools.partial(check_area, account, stack))
    areas.append(lambda: check_buckets(account))
    for run_area in areas:
        try:
            run_area()
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            check("runs to its end", f"{type(error).__name__}: {error}", None)


def main():
    # Ends the emulator too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="save-draft-") as directory:
        with emulator(Path(directory)) as (port, ca):
            run(Account(port, ca))
    print(f"{results['passed']} passed, {results['failed']} failed")
    sys.exit(1 if results["failed"] else 0)


if __name__ == "__main__":
    main()
