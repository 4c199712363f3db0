#!/usr/bin/env python3
"""Measures saves over HTTP: the local endpoint, and any other service with the same API beside it.

    benches/compare.py
    benches/compare.py --url http://127.0.0.1:30000/openapi/capcut-mate/v1 --small ID --large ID

Without --url, only the local endpoint is measured. It is built in the release profile, and gets a
draft of 4 KB and one of 5 MB. The other service must have two such drafts: --small and --large are
their ids. Both services get the same requests from the same client, in turn. A document is changed
before each save of the local endpoint, so that each save writes a version, with --data-dir also for
the other service: a folder where DIR/ID/draft_content.json is its document.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = {"4 KB": 4_000, "5 MB": 5_000_000}
IDS = {"4 KB": "2025092811473000000001", "5 MB": "2025092811473000000002"}


def document(size, number):
    """Returns a document of `size` bytes that differs from those with other numbers."""
    segment = '{"id":"%032x","type":"text","content":"你好"}' % number
    count = (size - 200) // (len(segment.encode()) + 1)
    text = '{"id":"%d","duration":5000000,"fps":30.0,"tracks":[%s],"name":"%s"}'
    body = ",".join([segment] * count)
    padding = size - len((text % (number, body, "")).encode())
    return (text % (number, body, "x" * padding)).encode()


class Service:
    """A service under measurement."""

    def __init__(self, name, url, ids, folder):
        self.name = name
        self.url = urllib.parse.urlsplit(url)
        self.ids = ids
        self.folder = folder
        self.numbers = itertools.count(1)

    def connect(self):
        """Returns a connection for one client."""
        connections = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        return connections[self.url.scheme](self.url.netloc, timeout=60)

    def write(self, size):
        """Replaces the document of the draft of this size, if its folder is known."""
        if self.folder is None:
            return
        path = self.folder / self.ids[size] / "draft_content.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{threading.get_ident()}")
        temporary.write_bytes(document(SIZES[size], next(self.numbers)))
        os.replace(temporary, path)

    def save(self, connection, size):
        """Saves once; returns the seconds, or None for an error."""
        draft_url = f"https://example.com/get_draft?draft_id={self.ids[size]}"
        body = json.dumps({"draft_url": draft_url})
        start = time.perf_counter()
        connection.request(
            "POST",
            f"{self.url.path}/save_draft",
            body,
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - start
        # Some services report errors with the status 200 and a code in the body.
        is_saved = response.status == 200 and not json.loads(answer).get("code")
        return seconds if is_saved else None


def measure(service, size, clients, saves):
    """Runs `saves` saves from `clients` threads; returns their durations and the number of errors."""
    durations, errors = [], []
    todo = iter(range(saves))
    lock = threading.Lock()

    def run():
        connection = service.connect()
        while True:
            with lock:
                if next(todo, None) is None:
                    return
            service.write(size)
            try:
                seconds = service.save(connection, size)
            except (OSError, http.client.HTTPException, ValueError) as error:
                seconds = None
                print(f"{service.name}: {error}", file=sys.stderr)
                connection.close()
            with lock:
                (errors if seconds is None else durations).append(seconds)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(durations), len(errors)


def percentile(durations, fraction):
    """Returns a percentile in milliseconds."""
    if not durations:
        return float("nan")
    return 1000 * durations[min(len(durations) - 1, int(fraction * len(durations)))]


def start_local(data_dir):
    """Starts the local endpoint; returns its process and URL."""
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--package", "local"], cwd=ROOT, check=True
    )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    process = subprocess.Popen(
        [
            target / "release/local",
            *("--port", "0", "--s3-port", "0", "--data-dir", data_dir),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        start = line.find("http://")
        if start >= 0 and "save_draft" in line:
            url = line[start:].split()[0]
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process, url.removesuffix("/save_draft")
    raise SystemExit("the local endpoint did not print its URL")


def main():
    """Parses the arguments, and prints one row for each service, size and number of clients."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--url", help="base URL of the other service, up to /save_draft")
    arguments.add_argument("--small", help="id of its draft of 4 KB")
    arguments.add_argument("--large", help="id of its draft of 5 MB")
    arguments.add_argument("--data-dir", type=pathlib.Path, help="folder of its drafts")
    arguments.add_argument("--saves", type=int, default=200, help="saves in each row")
    arguments = arguments.parse_args()
    if arguments.url and not (arguments.small and arguments.large):
        raise SystemExit("--url needs --small and --large")
    if arguments.url and not arguments.url.startswith(("http://", "https://")):
        raise SystemExit("--url must begin with http:// or https://")

    with tempfile.TemporaryDirectory() as data_dir:
        process, url = start_local(data_dir)
        try:
            folder = pathlib.Path(data_dir) / "drafts" / "drafts"
            services = [Service("save-draft", url, IDS, folder)]
            if arguments.url:
                ids = {"4 KB": arguments.small, "5 MB": arguments.large}
                services.append(Service("other", arguments.url, ids, arguments.data_dir))
            print("| service | draft | clients | p50 ms | p99 ms | saves/s | errors |")
            print("|---|---|---|---|---|---|---|")
            for size, clients in itertools.product(SIZES, (1, 16)):
                for service in services:
                    measure(service, size, clients, clients)
                    durations, errors = measure(service, size, clients, arguments.saves)
                    # Without the time in which a client changed the document.
                    seconds = sum(durations) / clients or float("nan")
                    print(
                        f"| {service.name} | {size} | {clients} "
                        f"| {percentile(durations, 0.5):.1f} | {percentile(durations, 0.99):.1f} "
                        f"| {len(durations) / seconds:.0f} | {errors} |",
                        flush=True,
                    )
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
