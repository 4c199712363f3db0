#!/usr/bin/env python3
"""Whole-process figures of the function beside its yardsticks, in one run.

    cargo build --release && benches/floor.py [NAME=]PROGRAM...

The default PROGRAM is target/release/bootstrap. The yardsticks in
benches/yardsticks are built first, with the versions of Cargo.lock and the
release profile of Cargo.toml. Then every program is started in turn, round
after round, against a Runtime API and an S3 that this script serves on
127.0.0.1. Printed are medians, and the ratio to the yardstick `bare`:

start  From exec to the first poll of the Runtime API: wall, CPU, and resident
       memory at that moment. No S3 endpoint is named, so TLS is set up as it
       is on Lambda.
cold   The first invocation, its event waiting, as in a cold start on demand:
       from exec to the answer, from the event to the answer, the CPU of both,
       and the S3 requests made by then. `cold, TLS` is the same over HTTPS.
size   The executable, and zipped alone.
"""

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import threading
import time
import tomllib
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "yardsticks"
CERTIFICATE = WORK / "cert.pem"
DRAFT_ID = "2025092811473036584258"
SOURCE = f"drafts/{DRAFT_ID}/draft_content.json"
PREFIX = "/2018-06-01/runtime/invocation/"
# Three parts, as a region of the commercial partition has; its hosts do not exist.
REGION = "yardstick-test-1"
BODY = json.dumps({"draft_url": f"https://example.com/get_draft?draft_id={DRAFT_ID}"})
EVENT = json.dumps({
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/openapi/capcut-mate/v1/save_draft",
    "rawQueryString": "",
    "headers": {"content-type": "application/json", "host": "example.com"},
    "requestContext": {
        "accountId": "123456789012", "apiId": "api", "domainName": "example.com",
        "domainPrefix": "example", "requestId": "1", "routeKey": "$default",
        "stage": "$default", "time": "28/Sep/2025:11:47:30 +0000", "timeEpoch": 1759060050000,
        "http": {"method": "POST", "path": "/openapi/capcut-mate/v1/save_draft",
                 "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "floor"},
    },
    "body": BODY,
    "isBase64Encoded": False,
}).encode()


class Http:
    """One server-side HTTP/1.1 connection: whole requests in, whole responses out."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, bytearray()

    def request(self):
        """The next (method, path, body), or None when the peer has closed."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._fill():
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (f.split(":", 1) for f in fields)}
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            if not self._fill():
                return None
        body = bytes(self.buffer[:length])
        del self.buffer[:length]
        method, path, _ = line.split(" ", 2)
        return method, path, body

    def respond(self, status, headers, body=b"", head_only=False):
        fields = {"Content-Length": len(body), **headers}
        text = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
        head = f"HTTP/1.1 {status}\r\n{text}\r\n".encode("latin-1")
        self.sock.sendall(head if head_only else head + body)

    def _fill(self):
        try:
            chunk = self.sock.recv(1 << 20)
        except OSError:
            return False
        self.buffer += chunk
        return bool(chunk)


def listener():
    sock = socket.create_server(("127.0.0.1", 0), backlog=64)
    return sock, f"127.0.0.1:{sock.getsockname()[1]}"


class Store:
    """An S3 that holds one draft and takes every PUT; it counts its requests."""

    def __init__(self, draft, tls=None):
        self.draft, self.tls, self.requests = draft, tls, []
        self.sock, address = listener()
        self.url = f"{'https' if tls else 'http'}://{address.replace('127.0.0.1', 'localhost') if tls else address}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            sock, _ = self.sock.accept()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection = Http(self.tls.wrap_socket(sock, server_side=True) if self.tls else sock)
            while request := connection.request():
                method, path, _ = request
                self.requests.append(method)
                known = path.split("?")[0].endswith(SOURCE)
                if method == "PUT":
                    connection.respond("200 OK", {"ETag": '"2"'})
                elif method == "GET" and known:
                    connection.respond("200 OK", {
                        "ETag": '"1"', "Last-Modified": "Sun, 28 Sep 2025 11:47:30 GMT",
                        "Content-Type": "application/json"}, self.draft)
                else:
                    connection.respond("404 Not Found", {}, head_only=True)
        except OSError:
            pass  # The program was ended.


class Program:
    """A program under test, started afresh for each figure."""

    def __init__(self, name, path, yardstick):
        self.name, self.path, self.figures = name, Path(path).resolve(), {}
        # The variables that Lambda sets, and the configuration.
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC",
            "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local-secret",
            "AWS_SESSION_TOKEN": "token", "AWS_EXECUTION_ENV": "AWS_Lambda_provided.al2023",
            "AWS_LAMBDA_FUNCTION_NAME": "save-draft", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "DRAFT_BUCKET": "drafts",
        }
        # With TLS each trusts the store's certificate beside those that it reads on Lambda.
        self.roots, self.trust = ROOT / "src" / "amazon_roots.pem", "AWS_CA_BUNDLE"
        if yardstick:
            self.env |= {"BARE_GET": SOURCE, "BARE_PUT": SOURCE.replace("drafts/", "saved/", 1)}
            # One bundle of roots, as on Amazon Linux 2023. Other systems have a directory
            # beside it that the SDK reads too, which would flatter us.
            bundles = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")
            self.roots, self.trust = next(Path(b) for b in bundles if Path(b).is_file()), "SSL_CERT_FILE"
            self.env["SSL_CERT_FILE"] = str(self.roots)

    def trust_store(self):
        """Writes whom this trusts with TLS."""
        self.bundle = WORK / self.roots.name
        self.bundle.write_text(self.roots.read_text() + CERTIFICATE.read_text())

    def add(self, figure, value):
        self.figures.setdefault(figure, []).append(value)

    def start(self):
        with Run(self, {}) as run:
            run.poll()
            wall, cpu, memory = run.wall_ms(), run.cpu_ms(), run.memory_mb()
        self.add("start: wall ms", wall)
        self.add("start: CPU ms", cpu)
        self.add("start: resident MB", memory)

    def cold(self, label, store):
        store.requests.clear()
        env = {"AWS_ENDPOINT_URL_S3": store.url}
        if store.tls:
            env[self.trust] = str(self.bundle)
        with Run(self, env) as run:
            run.poll()
            polled = run.wall_ms()
            run.answer()
            answered, cpu = run.wall_ms(), run.cpu_ms()
        self.add(f"{label}: exec to answer, ms", answered)
        self.add(f"{label}: event to answer, ms", answered - polled)
        self.add(f"{label}: CPU ms", cpu)
        self.add(f"{label}: S3 requests", len(store.requests))

    def sizes(self):
        data = self.path.read_bytes()
        self.add("size: MB", len(data) / 1e6)
        self.add("size: zipped MB", len(zlib.compress(data, 9)) / 1e6)


class Run:
    """One process, and the Runtime API it polls."""

    def __init__(self, program, env):
        self.program = program
        self.sock, address = listener()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.sock, selectors.EVENT_READ)
        env = {**program.env, "AWS_LAMBDA_RUNTIME_API": address, **env}
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
        path = str(program.path)
        self.began = time.monotonic_ns()
        self.pid = os.posix_spawn(path, [path], env, file_actions=quiet)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def wall_ms(self):
        return (time.monotonic_ns() - self.began) / 1e6

    def cpu_ms(self):
        # The clock that clock_getcpuclockid(3) gives: all threads, in nanoseconds.
        return time.clock_gettime_ns((~self.pid << 3) | 2) / 1e6

    def memory_mb(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def poll(self):
        """Waits for the first poll, and leaves it unanswered."""
        self.poller = self._next("GET", "next")

    def answer(self):
        """Answers the poll with the event, and waits for the function's answer."""
        deadline = int(time.time() * 1000) + 30_000
        self.poller.respond("200 OK", {
            "Content-Type": "application/json", "Lambda-Runtime-Aws-Request-Id": "1",
            "Lambda-Runtime-Deadline-Ms": deadline,
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:f",
        }, EVENT)
        self._next("POST", "1/response").respond("202 Accepted", {})

    def _next(self, method, tail):
        while True:
            ready = self.selector.select(timeout=10)
            if not ready:
                raise SystemExit(f"{self.program.name}: no {method} {PREFIX}{tail} within 10 s")
            for key, _ in ready:
                if key.fileobj is self.sock:
                    sock, _ = self.sock.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.selector.register(sock, selectors.EVENT_READ, Http(sock))
                    continue
                request = key.data.request()
                if request is None:
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
                elif request[:2] == (method, PREFIX + tail):
                    self._check(request[2])
                    return key.data
                else:
                    raise SystemExit(f"{self.program.name}: {request[0]} {request[1]} {request[2].decode()}")

    def _check(self, body):
        status = json.loads(body).get("statusCode", 200) if body else 200
        if status != 200:
            raise SystemExit(f"{self.program.name}: {body.decode()}")


def inline(value):
    """A dependency of Cargo.toml, as TOML in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def build(defaults=False):
    """Builds the yardsticks as a package of their own, so that nothing of ours is in them.

    With `defaults`, only `bare`, with the features that the SDK's crates have by default."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    versions = {package["name"]: package["version"] for package in lock["package"]}
    names = ["aws-config", "aws-sdk-s3"] + ([] if defaults else ["aws-smithy-http-client"])
    dependencies = {name: f"={versions[name]}" if defaults else manifest["dependencies"][name] for name in names}
    dependencies["lambda_runtime"] = {"version": f"={versions['lambda_runtime']}", "default-features": False}
    dependencies["serde_json"] = f"={versions['serde_json']}"
    dependencies["tokio"] = {"version": f"={versions['tokio']}", "features": ["macros", "rt"]}
    lines = ["[package]", 'name = "yardsticks"', 'version = "0.0.0"', f'edition = "{manifest["package"]["edition"]}"',
             "[workspace]", "[features]", "defaults = []"]
    for name in ["bare"] if defaults else ["bare", "hello"]:
        path = ROOT / "benches" / "yardsticks" / f"{name}.rs"
        lines += ["[[bin]]", f"name = {json.dumps(name)}", f"path = {json.dumps(str(path))}"]
    lines += ["[dependencies]", *(f"{name} = {inline(value)}" for name, value in dependencies.items())]
    lines += ["[profile.release]", *(f"{k} = {json.dumps(v)}" for k, v in manifest["profile"]["release"].items())]
    folder = WORK / ("defaults" if defaults else "cut")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Cargo.toml").write_text("\n".join(lines) + "\n")
    shutil.copy(ROOT / "Cargo.lock", folder / "Cargo.lock")
    command = ["cargo", "build", "--release", "--manifest-path", folder / "Cargo.toml", "--target-dir", folder]
    subprocess.run(command + (["--features", "defaults"] if defaults else []), check=True)
    return folder / "release"


def certificate():
    """A server's TLS."""
    key = WORK / "key.pem"
    if not CERTIFICATE.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-keyout", key, "-out", CERTIFICATE, "-days", "3650", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
                       check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


def report(programs, bare):
    figures = list(dict.fromkeys(f for p in programs for f in p.figures))
    print(f"{'':34}" + "".join(f"{p.name:>20}" for p in programs))
    for figure in figures:
        base = statistics.median(bare.figures[figure]) if figure in bare.figures else 0
        line = f"{figure:34}"
        for program in programs:
            if values := program.figures.get(figure):
                median = statistics.median(values)
                ratio = f"{median / base:6.2f}x" if base else ""
                line += f"{median:12.2f} {ratio:7}"
            else:
                line += f"{'':20}"
        print(line.rstrip())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="*", default=["target/release/bootstrap"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--draft-kb", type=int, default=4, help="size of the draft that is saved")
    parser.add_argument("--yardsticks", type=Path, help="a folder that has `bare` and `hello` built already")
    parser.add_argument("--defaults", action="store_true", help="also the yardstick with the SDK's default features")
    options = parser.parse_args()

    release = options.yardsticks or build()
    hello, bare = Program("hello", release / "hello", True), Program("bare", release / "bare", True)
    programs = [hello, bare]
    if options.defaults:
        programs.append(Program("bare, defaults", build(defaults=True) / "bare", True))
    for argument in options.program:
        name, _, path = argument.rpartition("=")
        programs.append(Program(name or Path(path).name, path, False))

    draft = json.dumps({"id": DRAFT_ID, "text": "x" * (options.draft_kb * 1024 - 64)}).encode()
    WORK.mkdir(parents=True, exist_ok=True)
    stores = [("cold", Store(draft)), ("cold, TLS", Store(draft, certificate()))]
    for program in programs:
        program.trust_store()
        program.start()  # Not counted: it brings the file into the page cache.
        program.figures.clear()
        program.sizes()
    for _ in range(options.rounds):
        for program in programs:
            program.start()
        for label, store in stores:
            for program in programs[1:]:
                program.cold(label, store)
    print(f"medians of {options.rounds} rounds, in turn; a draft of {options.draft_kb} KB; ratios to bare")
    report(programs, bare)


if __name__ == "__main__":
    main()
