"""Runs the command `drafts` of the package with the permissions that docs/versions.md lists, and without each of them."""

import json
import subprocess

from account import ARCHITECTURE, REGION


class Command:
    """The command `drafts`, run by an IAM user of its own."""

    def __init__(self, account, stack, prefix):
        self.account, self.iam = account, account.aws.client("iam")
        self.program = account.package / f"drafts-linux-{ARCHITECTURE}"
        nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}
        self.arn, credentials = account.create_user(self.iam, "historian", nothing)
        self.buckets = {"DRAFTS": stack.draft_bucket, "SAVED": stack.saved_bucket}
        self.environment = {
            "HOME": str(account.ca.parent),
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": f"https://127.0.0.1:{account.port}",
            "SSL_CERT_FILE": str(account.ca),
            "DRAFT_BUCKET": stack.draft_bucket,
            "SAVED_BUCKET": stack.saved_bucket,
            "DRAFT_PREFIX": prefix,
        }

    def allow(self, permissions):
        """Gives the user exactly these permissions, each like `s3:GetObject SAVED/saved/*`."""
        statements = []
        for permission in permissions:
            action, resource = permission.split()
            for name, bucket in self.buckets.items():
                resource = resource.replace(name, bucket)
            statements.append({"Effect": "Allow", "Action": action, "Resource": f"arn:aws:s3:::{resource}"})
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.iam.put_user_policy(UserName="historian", PolicyName="policy", PolicyDocument=policy)

    def run(self, *arguments):
        """Runs the command, and returns its exit code and its output."""
        process = subprocess.run(
            [self.program, *arguments], env=self.environment, cwd=self.environment["HOME"], check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return process.returncode, process.stdout


READ = ["s3:ListBucket SAVED", "s3:GetObject SAVED/saved/*"]
READ_FILES = [*READ, "s3:GetObject SAVED/saved-files/*"]
RESTORE = [*READ_FILES, "s3:ListBucket DRAFTS", "s3:GetObject DRAFTS/editor/drafts/*",
           "s3:PutObject DRAFTS/editor/drafts/*"]
PLAN = ["s3:ListBucket SAVED", "s3:GetBucketVersioning SAVED", "s3:GetObject SAVED/saved/*"]


def commands(draft_id, older, newer):
    """Returns the arguments of each command, and the permissions that it needs, in this order."""
    return [
        (["versions", draft_id], READ),
        (["show", draft_id, older], READ),
        (["diff", draft_id, older, newer], READ),
        (["link", draft_id, older], READ_FILES[:2]),
        (["verify", draft_id, "--read", "100"], READ_FILES),
        (["download", draft_id, older, "--to", "downloaded"], READ_FILES),
        (["restore", draft_id, older, "--discard-current"], RESTORE),
        (["restore", draft_id, newer, "--discard-current", "--exact"], [*RESTORE, "s3:DeleteObject DRAFTS/editor/drafts/*"]),
        # A prune that deletes waits for 20 minutes.
        (["prune", draft_id, "--keep-last", "1", "--dry-run"], PLAN),
    ]
