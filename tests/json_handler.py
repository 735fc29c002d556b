"""What the loopback servers of the tests share: JSON requests and JSON answers, with nothing logged."""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class JsonHandler(BaseHTTPRequestHandler):
    """A server's handler overrides `get`, `post` or both."""

    def do_GET(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def get(self) -> None:
        self.answer({"error": "nothing is here"}, 404)

    def post(self, request: dict[str, Any]) -> None:
        del request
        self.answer({"error": "nothing is here"}, 404)

    def answer(self, body: Any, status: int = 200) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass
