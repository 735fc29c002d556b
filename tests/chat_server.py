"""A loopback OpenAI-compatible server in a thread: honours n and seeds as vLLM does, and can fail on demand."""

import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from json_handler import JsonHandler


class ChatServer:
    """Answers `reply(prompt, seed)`; `failing` makes every request a 503."""

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self.reply, self.failing, self.requests = reply, False, []
        outer = self

        class Handler(JsonHandler):
            protocol_version = "HTTP/1.1"

            def post(self, body: dict[str, Any]) -> None:
                outer.requests.append(body)
                if outer.failing:
                    self.answer({"error": {"message": "the engine is dead"}}, 503)
                else:
                    self.answer(outer.completion(body))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = "\n".join(message["content"] for message in body["messages"])
        texts = [self.reply(prompt, body.get("seed", 0) + i) for i in range(body.get("n") or 1)]
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {
                    "index": index,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                    "logprobs": {"content": [{"token": "x", "logprob": -0.5, "top_logprobs": []}] * 3},
                }
                for index, text in enumerate(texts)
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3 * len(texts), "total_tokens": 11 + 3 * len(texts)},
        }

    def __enter__(self) -> "ChatServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
