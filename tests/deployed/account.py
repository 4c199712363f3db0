"""The emulated AWS account, and the stack in it."""

import contextlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[2]
# Architecture of the function, which the emulator runs on this machine.
ARCHITECTURE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
REGION = "us-east-1"
ACCOUNT = "123456789012"


def wait_for(probe, seconds=60.0):
    """Calls `probe` until it returns something true, and returns that, or None after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found or time.monotonic() > deadline:
            return found or None
        time.sleep(0.05)


def error_of(call, **arguments):
    """Returns the error code of an AWS API call, or None if it succeeded."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def make_certificates(directory):
    """Creates a certificate authority and a server certificate, and returns the paths of ca, certificate and key."""
    ca, ca_key, request = directory / "ca.pem", directory / "ca.key", directory / "server.csr"
    certificate, key, extensions = directory / "server.pem", directory / "server.key", directory / "extensions"
    extensions.write_text(f"subjectAltName=IP:127.0.0.1,DNS:*.execute-api.{REGION}.amazonaws.com\n")

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", 2, "-subj", "/CN=save-draft test CA",
            "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", 2,
            "-extfile", extensions, "-out", certificate)
    return ca, certificate, key


@contextlib.contextmanager
def emulator(directory):
    """Runs the emulator, and yields its port and the path of its certificate authority."""
    ca, certificate, key = make_certificates(directory)
    # Functions inherit the emulator's environment, so it holds nothing else.
    environment = {
        "PATH": os.defpath,
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "AUTH": "true",
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(certificate),
        "MINISTACK_SSL_KEY": str(key),
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": REGION,
        "MINISTACK_HOST": f"{REGION}.amazonaws.com",
        "SSL_CERT_FILE": str(ca),
        "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "0.1",
        # No engine answers here: functions run as processes.
        "DOCKER_HOST": f"unix://{directory}/no-docker.sock",
    }
    log_path = Path(os.environ.get("KEEP_LOG", directory / "emulator.log"))
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests/deployed/emulator.py", certificate, key],
            env=environment, cwd=directory, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )
        try:
            line = process.stdout.readline()
            if not line:
                sys.exit(f"the emulator did not start:\n{log_path.read_text()}")
            yield int(line), ca
        finally:
            # Its process group holds only the emulator and the functions that it started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Account:
    """The emulated AWS account, as an IAM user sees it. The root user is exempt from bucket policies."""

    def __init__(self, port, ca):
        self.port, self.ca = port, ca
        # The folder of the unpacked package, as soon as there is one.
        self.package = None
        root = self.session(Credentials("test", "test"))
        iam = root.client("iam")
        everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        self.user_arn, self.credentials = self.create_user(iam, "operator", everything)
        self.aws = self.session(self.credentials)
        self.tls = ssl.create_default_context(cafile=ca)

    @staticmethod
    def create_user(iam, name, policy):
        arn = iam.create_user(UserName=name)["User"]["Arn"]
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return arn, Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def session(self, credentials):
        return Session(self.port, self.ca, credentials)

    def environment(self):
        """Returns the environment variables for commands that use the account."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.ca.parent),
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"https://127.0.0.1:{self.port}",
            "AWS_CA_BUNDLE": str(self.ca),
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": "0.2",
        }

    def request(self, method, url, body=None, headers=None):
        """Sends a request to the host of `url` at the emulator's address."""
        host, path = re.fullmatch(r"https://([^/]+)(/.*)", url).groups()
        connection = http.client.HTTPSConnection(host, context=self.tls, timeout=60)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sock = self.tls.wrap_socket(plain, server_hostname=host)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read())

    def signed(self, credentials, method, url, body):
        """Sends a request with a Signature Version 4."""
        request = AWSRequest(method, url, data=body)
        SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
        return self.request(method, url, body, dict(request.headers))


class Session:
    def __init__(self, port, ca, credentials):
        self.options = {
            "endpoint_url": f"https://127.0.0.1:{port}",
            "verify": str(ca),
            "region_name": REGION,
            "aws_access_key_id": credentials.access_key,
            "aws_secret_access_key": credentials.secret_key,
            "aws_session_token": credentials.token,
            "config": Config(retries={"total_max_attempts": 1}, read_timeout=60),
        }

    def client(self, service):
        return boto3.client(service, **self.options)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def summary(self):
        """Returns the status and the detail of an error."""
        try:
            return self.status, self.json().get("detail")
        except ValueError:
            return self.status, self.body


class Stack:
    """A stack that `sam deploy` creates and updates, as docs/operations.md describes."""

    def __init__(self, account, name):
        self.account, self.name = account, name
        self.cloudformation = account.aws.client("cloudformation")

    def deploy(self, **parameters):
        """Runs `sam deploy`, and returns its exit code. Reads the outputs."""
        parameters = {"Architecture": ARCHITECTURE, **parameters}
        arguments = ["sam", "deploy", "--stack-name", self.name, "--no-confirm-changeset", "--parameter-overrides",
                     *(f"{key}={value}" for key, value in parameters.items())]
        process = subprocess.run(arguments, env=self.account.environment(), cwd=self.account.package,
                                 capture_output=True, text=True, check=False)
        self.log = process.stdout + process.stderr
        if process.returncode == 0:
            self.read_outputs()
        return process.returncode

    def must_deploy(self, **parameters):
        if self.deploy(**parameters) != 0:
            sys.exit(f"sam deploy of {self.name} failed:\n{self.log}")

    def read_outputs(self):
        stack = self.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0]
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.url, self.function, self.draft_bucket, self.saved_bucket = (
            self.outputs[key] for key in ("Url", "FunctionName", "DraftBucketName", "SavedBucketName")
        )

    def resource(self, logical_id):
        """Returns the physical ID of a resource, or None."""
        pages = self.cloudformation.get_paginator("list_stack_resources").paginate(StackName=self.name)
        resources = (resource for page in pages for resource in page["StackResourceSummaries"])
        found = [r for r in resources if r["LogicalResourceId"] == logical_id]
        return found[0]["PhysicalResourceId"] if found else None

    def delete(self):
        self.cloudformation.delete_stack(StackName=self.name)
        return wait_for(lambda: error_of(self.cloudformation.describe_stacks, StackName=self.name))


class Drafts:
    """The drafts and saved versions in the buckets of a stack."""

    def __init__(self, account, stack, prefix="drafts/"):
        self.s3, self.prefix = account.aws.client("s3"), prefix
        self.draft_bucket, self.saved_bucket = stack.draft_bucket, stack.saved_bucket

    def put(self, draft_id, body, document="draft_content.json"):
        self.put_key(f"{self.prefix}{draft_id}/{document}", body)

    def put_key(self, key, body):
        self.s3.put_object(Bucket=self.draft_bucket, Key=key, Body=body)

    def keys(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.saved_bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def get(self, key):
        """Returns the bytes of a saved object."""
        return self.s3.get_object(Bucket=self.saved_bucket, Key=key)["Body"].read()

    def versions(self, draft_id):
        """Returns the bytes of all saved versions of a draft, by key."""
        return {key: self.get(key) for key in self.keys(f"saved/{draft_id}/")}
