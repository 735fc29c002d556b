"""A loopback server that speaks OpenAI's chat protocol: it answers with the replies it is given, in order."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

from json_handler import JsonHandler


class ChatServer(ThreadingHTTPServer):
    """`replies` in order, the last one for ever; `fewer` choices than asked; `delay_s` before each answer."""

    daemon_threads = True

    def __init__(self, replies: list[str], *, fewer: int = 0, delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies, self.fewer, self.delay_s = replies, fewer, delay_s
        self.requests: list[dict[str, Any]] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that has left is no fault of the server."""


class _Handler(JsonHandler):
    server: ChatServer

    def get(self) -> None:
        self.answer({"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "vllm"}]})

    def post(self, request: dict[str, Any]) -> None:
        first = sum(r.get("n", 1) for r in self.server.requests)
        self.server.requests.append(request)
        self.server.stopping.wait(self.server.delay_s)
        count = request.get("n", 1) - self.server.fewer
        replies = self.server.replies
        texts = [replies[min(first + i, len(replies) - 1)] for i in range(count)]
        self.answer(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "scripted",
                "choices": [
                    {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                    for i, text in enumerate(texts)
                ],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5 * count, "total_tokens": 10 + 5 * count},
            }
        )


@contextmanager
def serve(replies: list[str], **faults: Any) -> Iterator[ChatServer]:
    server = ChatServer(replies, **faults)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
