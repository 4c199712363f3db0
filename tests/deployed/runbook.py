"""Runs the commands of docs/operations.md as they stand there, with the AWS CLI, curl and jq."""

import re
import subprocess

from account import ROOT

PAGE = ROOT / "docs/operations.md"


def blocks():
    """Returns the blocks of shell commands under each heading of the page."""
    found, heading, block = {}, "", None
    for line in PAGE.read_text().splitlines():
        if block is not None and line == "```":
            found.setdefault(heading, []).append("\n".join(block))
            block = None
        elif block is not None:
            block.append(line)
        elif line == "```sh":
            block = []
        elif title := re.fullmatch("#+ (.+)", line):
            heading = title[1]
    return found


class Runbook:
    """The commands of the page, for one stack."""

    def __init__(self, account, stack):
        home = account.ca.parent
        # The hosts of the API are at the emulator's address.
        (home / ".curlrc").write_text(f'connect-to = "::127.0.0.1:{account.port}"\ncacert = "{account.ca}"\nsilent\n')
        self.environment = account.environment()
        self.folder = home
        self.blocks = blocks()
        [self.setup] = self.blocks["Operations"]
        # Some versions of the CLI ignore AWS_ENDPOINT_URL, for all services or for SQS.
        self.setup += f"""
            STACK={stack.name}
            aws() {{ command aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"; }}
        """

    def run(self, heading, block=0, answers="", options="", **variables):
        """Runs a block under `heading` in which these variables are set, and answers its questions.

        Adds the options to its last command. Returns the exit code and the output.
        """
        process = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.setup + self.blocks[heading][block] + options],
            env={**self.environment, **variables}, cwd=self.folder, text=True, check=False,
            input=answers, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )
        return process.returncode, process.stdout

    def error_of(self, heading, block=0, answers="", options="", **variables):
        """Runs a block, and returns its output if it failed, or None."""
        status, output = self.run(heading, block, answers, options, **variables)
        return output if status else None
