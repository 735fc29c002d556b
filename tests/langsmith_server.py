"""A loopback server that speaks as much of LangSmith's protocol as its client needs to record runs and list them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from json_handler import JsonHandler


class LangSmith(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(JsonHandler):
    server: LangSmith

    def get(self) -> None:
        limits = {"size_limit": 100, "size_limit_bytes": 1 << 24, "scale_up_qsize_trigger": 1000}
        limits |= {"scale_up_nthreads_limit": 1, "scale_down_nempty_trigger": 4}
        self.answer({"version": "0.16.14", "batch_ingest_config": {"use_multipart_endpoint": False, **limits}})

    def post(self, request: dict[str, Any]) -> None:
        if self.path == "/runs/batch":
            for run in [*request.get("post", []), *request.get("patch", [])]:
                known = {key: value for key, value in run.items() if value is not None}
                self.server.runs.setdefault(run["id"], {}).update(known)
            self.answer({})
            return
        runs = [run for run in self.server.runs.values() if run["trace_id"] in request.values()][::-1]
        if self.path.endswith("/v2/runs/query"):
            self.answer({"items": [_newer(run) for run in runs], "next_cursor": None})
        else:
            self.answer({"runs": runs, "cursors": {"next": None}})


def _newer(run: dict[str, Any]) -> dict[str, Any]:
    """The fields of a run that version 2 of the protocol gives, as far as they are asked for here."""
    kept = {key: run.get(key) for key in ("id", "trace_id", "inputs", "outputs")}
    return kept | {"run_type": run["run_type"].upper(), "metadata": run["extra"]["metadata"]}


@contextmanager
def langsmith() -> Iterator[LangSmith]:
    with LangSmith() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
