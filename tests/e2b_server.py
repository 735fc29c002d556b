"""A stand-in for E2B's servers on the loopback interface: control plane and envd on one port, for the real client.

It runs commands in plain local subprocesses, so it is for tests only. Faults are set as attributes.
"""

import base64
import contextlib
import datetime
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "e2b_test"


@dataclass
class Machine:
    id: str
    body: dict[str, Any]
    end: float
    root: Path
    token: str
    started: float = field(default_factory=time.time)
    commands: list[str] = field(default_factory=list)
    timeouts: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)


class E2BServer:
    """`url` serves both the API and the virtual machines. Use as a context manager."""

    def __init__(self, most: int = 20) -> None:
        self.most = most
        """Virtual machines at a time; one more is answered with 429."""
        self.machines: dict[str, Machine] = {}
        self.created: list[Machine] = []
        self.peak = 0
        self.keys: list[str | None] = []
        self.create_statuses: list[int] = []
        """Answers to the next creations, before any succeeds."""
        self.drop_creations = 0
        """Creations that succeed while their answer is lost."""
        self.drop_streams = 0
        """Runs of the runner whose stream ends in the middle."""
        self.die_before_commands = 0
        """Runs of the runner before which the machine is gone."""
        self.hang_commands = 0
        """Runs of the runner that never answer."""
        self.garble_commands = 0
        """Runs of the runner that print nonsense."""
        self.kill_on: str | None = None
        """A machine dies when jobs with this text reach it."""
        self.unread: list[subprocess.Popen[bytes]] = []
        """Commands whose output no answer has read."""
        self.lock = threading.Lock()
        self.creating = threading.Lock()
        server = self

        class Handler(_Handler):
            e2b = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> "E2BServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for machine in list(self.machines.values()):
            self.end(machine)
        self._http.shutdown()
        self._http.server_close()
        for process in self.unread:
            process.communicate()

    def add(self, body: dict[str, Any]) -> Machine:
        name = "i" + uuid.uuid4().hex[:18]
        root = Path(tempfile.mkdtemp(prefix="e2b-"))
        machine = Machine(name, body, time.time() + (body.get("timeout") or 300), root, "token-" + name)
        with self.lock:
            self.machines[name] = machine
            self.created.append(machine)
            self.peak = max(self.peak, len(self.machines))
        return machine

    def end(self, machine: Machine) -> None:
        with self.lock:
            self.machines.pop(machine.id, None)
        for process in machine.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(machine.root, ignore_errors=True)

    def take(self, fault: str) -> bool:
        """Whether this fault strikes now."""
        with self.lock:
            left = getattr(self, fault)
            setattr(self, fault, max(left - 1, 0))
            return bool(left)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    e2b: E2BServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def _route(self, method: str) -> None:
        url = urllib.parse.urlparse(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self._body()
        parts = [part for part in url.path.split("/") if part]
        if parts and parts[0] == "v2":
            parts = parts[1:]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if parts and parts[0] == "sandboxes":
                self._control(method, parts[1:], query, body)
            else:
                self._inside(method, url.path, query, body)

    # --- the control plane

    def _control(self, method: str, parts: list[str], query: dict[str, str], body: bytes) -> None:
        self.e2b.keys.append(self.headers.get("X-API-KEY"))
        if self.headers.get("X-API-KEY") != KEY:
            return self._error(401, "invalid API key")
        if not parts and method == "POST":
            return self._create(json.loads(body))
        if not parts:
            wanted = dict(urllib.parse.parse_qsl(query.get("metadata", "")))
            machines = [each for each in self.e2b.machines.values() if wanted.items() <= each.body["metadata"].items()]
            return self._json(200, [self._detail(machine) for machine in machines])
        machine = self.e2b.machines.get(parts[0])
        if machine is None:
            return self._error(404, "sandbox not found")
        if method == "DELETE":
            self.e2b.end(machine)
            return self._json(204)
        if parts[1:] == ["timeout"]:
            seconds = json.loads(body)["timeout"]
            machine.timeouts.append(seconds)
            machine.end = time.time() + seconds
            return self._json(204)
        return self._json(200, self._detail(machine))

    def _create(self, body: dict[str, Any]) -> None:
        if self.e2b.create_statuses:
            status = self.e2b.create_statuses.pop(0)
            return self._error(status, f"refused with {status}")
        with self.e2b.creating:
            if len(self.e2b.machines) >= self.e2b.most:
                return self._error(429, f"you have reached the maximum number of sandboxes ({self.e2b.most})")
            machine = self.e2b.add(body)
        if self.e2b.take("drop_creations"):
            return self._hang_up()
        answer = {"templateID": body["templateID"], "sandboxID": machine.id, "clientID": "c", "envdVersion": "0.6.7"}
        return self._json(201, answer | {"envdAccessToken": machine.token, "domain": None})

    def _detail(self, machine: Machine) -> dict[str, Any]:
        def moment(seconds: float) -> str:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat().replace("+00:00", "Z")

        return {
            "templateID": machine.body["templateID"],
            "sandboxID": machine.id,
            "clientID": "c",
            "startedAt": moment(machine.started),
            "endAt": moment(machine.end),
            "envdVersion": "0.6.7",
            "cpuCount": 2,
            "memoryMB": 512,
            "diskSizeMB": 1024,
            "state": "running",
            "metadata": machine.body["metadata"],
        }

    # --- inside a machine

    def _inside(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        name = self.headers.get("E2b-Sandbox-Id")
        machine = self.e2b.machines.get(name or "")
        if machine is None or machine.end < time.time():
            return self._json(502, {"sandboxId": name, "message": "The sandbox was not found", "code": 502})
        if path == "/health":
            return self._json(204)
        if self.headers.get("X-Access-Token") != machine.token:
            return self._error(401, "bad access token")
        if path == "/files" and method == "POST":
            return self._write(machine, query, body)
        if path == "/process.Process/Start":
            return self._start(machine, json.loads(body[5:]))
        return self._error(404, f"no route {path}")

    def _write(self, machine: Machine, query: dict[str, str], body: bytes) -> None:
        if self.e2b.kill_on and self.e2b.kill_on.encode() in body:
            self.e2b.end(machine)
            return self._hang_up()
        files = [(query["path"], body)] if "path" in query and b"Content-Disposition" not in body[:200] else []
        if not files:
            boundary = b"--" + self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            for part in body.split(boundary)[1:-1]:
                head, _, data = part.lstrip(b"\r\n").partition(b"\r\n\r\n")
                given = head.partition(b'filename="')[2].partition(b'"')[0].decode()
                files.append((query.get("path") or given, data[:-2]))
        for path, data in files:
            place = machine.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return self._json(200, [{"name": Path(path).name, "type": "file", "path": path} for path, _ in files])

    def _start(self, machine: Machine, body: dict[str, Any]) -> None:
        process = body["process"]
        command = [process["cmd"], *[each for each in process.get("args", []) if each != "-l"]]
        machine.commands.append(command[-1])
        is_runner = "--nonce" in command[-1]
        if is_runner and self.e2b.take("die_before_commands"):
            self.e2b.end(machine)
            return self._json(502, {"sandboxId": machine.id, "message": "The sandbox was not found", "code": 502})
        if is_runner and self.e2b.take("hang_commands"):
            command = ["sleep", "600"]
        if is_runner and self.e2b.take("garble_commands"):
            command = ["echo", "hello"]
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=machine.root,
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
            start_new_session=True,
        )
        machine.processes.append(running)
        self.e2b.unread.append(running)
        if machine.id not in self.e2b.machines:  # it was ended meanwhile
            self.e2b.end(machine)
        self.send_response(200)
        self.send_header("Content-Type", "application/connect+json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._frame({"event": {"start": {"pid": running.pid}}})
        if is_runner and self.e2b.take("drop_streams"):
            return self._hang_up()
        self.e2b.unread.remove(running)
        out, err = running.communicate()
        for name, data in (("stdout", out), ("stderr", err)):
            for start in range(0, len(data), 30_000):
                self._frame({"event": {"data": {name: base64.b64encode(data[start : start + 30_000]).decode()}}})
        code = running.returncode
        end = {"exitCode": code, "exited": code >= 0, "status": f"exit status {code}"}
        self._frame({"event": {"end": {name: value for name, value in end.items() if value}}})
        self._frame({}, 2)
        return self._chunk(b"")

    # --- HTTP

    def _frame(self, message: dict[str, Any], flag: int = 0) -> None:
        data = json.dumps(message).encode()
        self._chunk(struct.pack(">BI", flag, len(data)) + data)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"code": status, "message": message})

    def _json(self, status: int, value: Any = None) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
