"""Solves against servers that break the protocol: the answer with its usage, or one sentence with a remedy."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fakes import RuleSandbox, fenced
from json_handler import JsonHandler
from langchain_core.callbacks import UsageMetadataCallbackHandler

from mucode_agent import ContextOverflowError, InfrastructureError, Solution, create_solver
from mucode_agent.models.load import load_model

PROBLEM = {"prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
GOOD = fenced("def f(x):\n    return x + 1")
Answer = Callable[["Handler", dict[str, Any]], None]
Change = Callable[[dict[str, Any]], object]


class Handler(JsonHandler):
    protocol_version = "HTTP/1.1"
    server: "Hostile"

    def post(self, request: dict[str, Any]) -> None:
        self.server.requests += 1
        self.server.reply(self, request)

    def raw(self, body: bytes, status: int = 200, *, length: int | None = None, **headers: str) -> None:
        """The body as it is; with another `length` than its own it is cut off."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "x-should-retry": "false", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = length is not None


class Hostile(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, reply: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests = reply, 0

    def handle_error(self, *_: Any) -> None:
        """What it does to its clients is meant."""


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    servers: list[Hostile] = []

    def start(reply: Answer) -> str:
        servers.append(Hostile(reply))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def completion(request: dict[str, Any], text: str = GOOD) -> dict[str, Any]:
    n = request.get("n") or 1
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}} for i in range(n)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * n, "total_tokens": 10 + 5 * n}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


def changed(**fields: Any) -> Answer:
    """A completion whose first level has other fields."""
    return lambda handler, request: handler.raw(json.dumps({**completion(request), **fields}).encode())


def each(change: Change) -> Answer:
    """A completion whose choices are changed."""

    def answer(handler: Handler, request: dict[str, Any]) -> None:
        whole = completion(request)
        for choice in whole["choices"]:
            change(choice)
        handler.raw(json.dumps(whole).encode())

    return answer


def tokens(**token: Any) -> Answer:
    return each(lambda choice: choice.update(logprobs={"content": [token] * 5}))


def moved(handler: Handler, request: dict[str, Any]) -> None:
    if handler.path.startswith("/v1"):
        handler.raw(b"", 307, Location=handler.path.replace("/v1", "/v2"))
    else:
        handler.answer(completion(request))


def soon(status: int) -> Answer:
    """Refuses the first request, for no time at all."""

    def answer(handler: Handler, request: dict[str, Any]) -> None:
        if handler.server.requests == 1:
            handler.raw(b"<html>busy</html>", status, Retry_After="0")
        else:
            handler.answer(completion(request))

    return answer


def solved(url: str, kind: str, seen: UsageMetadataCallbackHandler, **options: Any) -> Solution:
    model = load_model(f"{kind}:m@{url}", timeout=20)
    with create_solver(
        model, sandbox=RuleSandbox(lambda code: "x + 1" in code), verifier="none", n=2, max_turns=3, **options
    ) as solver:
        return Solution.model_validate(solver.invoke({"problem": PROBLEM}, {"callbacks": [seen]})["solution"])


READ: dict[str, tuple[Answer, bool]] = {
    "content in parts": (each(lambda c: c["message"].update(content=[{"type": "text", "text": GOOD}])), True),
    "plain text": (lambda h, r: h.raw(json.dumps(completion(r)).encode(), Content_Type="text/plain"), True),
    "a mark of byte order": (lambda h, r: h.raw(b"\xef\xbb\xbf" + json.dumps(completion(r)).encode()), True),
    "half a surrogate": (each(lambda c: c["message"].update(content=GOOD + "\ud800")), True),
    "no reason for the end": (each(lambda c: c.update(finish_reason=None)), True),
    "no name": (changed(model=None, id=None, object=None), True),
    "log-probabilities that are no numbers": (tokens(token="x", logprob=float("nan"), top_logprobs=[]), True),
    "endless log-probabilities": (tokens(token="x", logprob=-float("inf"), top_logprobs=[]), True),
    "log-probabilities of null": (tokens(token="x", logprob=None, top_logprobs=[]), True),
    "log-probabilities of nothing": (tokens(logprob=-1.0), True),
    "moved": (moved, True),
    "429": (soon(429), True),
    "503": (soon(503), True),
    "no usage": (changed(usage=None), False),
}


@pytest.mark.parametrize("kind", ["openai", "vllm"])
@pytest.mark.parametrize("name", READ)
def test_an_odd_answer_is_read_with_its_usage(serve: Callable[[Answer], str], name: str, kind: str) -> None:
    answer, counted = READ[name]
    seen = UsageMetadataCallbackHandler()
    solution = solved(serve(answer), kind, seen)

    prompt = 10 if kind == "vllm" else 20  # one request of two choices, or two of one
    assert solution.solved
    assert (solution.usage.prompt_tokens, solution.usage.completion_tokens) == ((prompt, 10) if counted else (0, 0))
    heard = [(of["input_tokens"], of["output_tokens"]) for of in seen.usage_metadata.values()]
    assert heard == ([(prompt, 10)] if counted else [])


@pytest.mark.parametrize("kind", ["openai", "vllm"])
def test_an_answer_without_text_is_no_program(serve: Callable[[Answer], str], kind: str) -> None:
    answer = each(lambda choice: choice["message"].update(content=None))
    solution = solved(serve(answer), kind, UsageMetadataCallbackHandler())
    assert (solution.solved, solution.stop_reason, solution.code) == (False, "max_turns", "")


NO_COMPLETION = "check the URL"
BROKEN: dict[str, tuple[Answer, str]] = {
    "html": (lambda h, r: h.raw(b"<html>Sign in</html>", Content_Type="text/html"), NO_COMPLETION),
    "a list": (lambda h, r: h.answer([1]), NO_COMPLETION),
    "null": (lambda h, r: h.answer(None), NO_COMPLETION),
    "nothing": (lambda h, r: h.raw(b""), NO_COMPLETION),
    "no choices": (changed(choices=[]), NO_COMPLETION),
    "choices of null": (changed(choices=None), NO_COMPLETION),
    "no message": (each(lambda choice: choice.pop("message")), NO_COMPLETION),
    "another protocol": (lambda h, r: h.answer({"message": {"content": GOOD}, "done": True}), NO_COMPLETION),
    "an error as an answer": (lambda h, r: h.answer({"error": {"message": "model is loading"}}), "model is loading"),
    "an error in a stream": (
        lambda h, r: h.raw(b'data: {"error":{"message":"boom"}}\n\n', Content_Type="text/event-stream"),
        "boom",
    ),
    "another encoding": (lambda h, r: h.raw('"\u00e9"'.encode("latin-1")), NO_COMPLETION),
    "half of it": (lambda h, r: h.raw(json.dumps(completion(r)).encode()[:80]), NO_COMPLETION),
    "a connection that ends": (lambda h, r: h.raw(b'{"id":', length=5000), "start the server"),
    "502": (lambda h, r: h.raw(b"<html>Bad Gateway</html>", 502), "look at the server's log"),
    "no quota": (lambda h, r: h.answer({"error": {"message": "over your quota"}}, 429), "raise the account's quota"),
}


@pytest.mark.parametrize("kind", ["openai", "vllm"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_completion_is_one_sentence_with_a_remedy(
    serve: Callable[[Answer], str], name: str, kind: str
) -> None:
    answer, words = BROKEN[name]
    with pytest.raises(InfrastructureError, match=words) as caught:
        solved(serve(answer), kind, UsageMetadataCallbackHandler())
    assert str(caught.value).startswith("model 'm' at http://127.0.0.1:")
    assert "\n" not in str(caught.value)


OVERFLOWS = {
    "OpenAI": "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
    "vLLM": "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens in the messages.",
    "llama.cpp": "the request exceeds the available context size, try increasing it",
    "Ollama": "input length exceeds the context length",
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_an_overflow_ends_the_solve_with_the_best_before_it(serve: Callable[[Answer], str], name: str) -> None:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        turn = 1 + sum(message["role"] == "assistant" for message in request["messages"])
        if turn == last:
            handler.answer({"error": {"message": OVERFLOWS[name], "code": 400}}, 400)
        else:
            handler.answer(completion(request, fenced(f"def f(x):\n    return {turn}")))

    last, seen = 3, UsageMetadataCallbackHandler()
    solution = solved(serve(answer), "openai", seen)
    assert (solution.stop_reason, solution.turns, solution.usage.completion_tokens) == ("context_overflow", 2, 20)
    assert "return 1" in solution.code
    assert [of["output_tokens"] for of in seen.usage_metadata.values()] == [20]

    last = 1
    with pytest.raises(ContextOverflowError, match="shorten the prompt"):
        solved(serve(answer), "openai", seen)


Refused = tuple[Callable[[dict[str, Any]], bool], int, str]
REFUSED: dict[str, Refused] = {
    "temperature": (lambda r: "temperature" in r, 400, "Unsupported parameter: 'temperature' is not supported"),
    "temperature but 1": (
        lambda r: r.get("temperature", 1) != 1,
        400,
        "'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
    ),
    "seed": (lambda r: "seed" in r, 422, "unknown field: seed"),
    "n": (lambda r: r.get("n", 1) > 1, 400, "Only one completion choice is allowed"),
    "logprobs": (lambda r: bool(r.get("logprobs")), 400, "logprobs are not supported by this model"),
    "max_tokens": (
        lambda r: "max_tokens" in r,
        400,
        "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
    ),
    "max_completion_tokens": (lambda r: "max_completion_tokens" in r, 422, "max_completion_tokens: extra inputs"),
}


EVERY = ["temperature", "seed", "n", "logprobs"]


def refusing(names: list[str]) -> Answer:
    def answer(handler: Handler, request: dict[str, Any]) -> None:
        for refuses, status, words in map(REFUSED.__getitem__, names):
            if refuses(request):
                return handler.answer({"error": {"message": words}}, status)
        return handler.answer(completion(request))

    return answer


@pytest.mark.parametrize("kind", ["openai", "vllm"])
@pytest.mark.parametrize("names", [*([name] for name in REFUSED), EVERY], ids="+".join)
def test_a_server_that_refuses_options_solves_with_its_usage(
    serve: Callable[[Answer], str], names: list[str], kind: str
) -> None:
    seen = UsageMetadataCallbackHandler()
    solution = solved(serve(refusing(names)), kind, seen, temperature=0.7)
    prompt = 10 if kind == "vllm" and "n" not in names else 20
    assert (solution.solved, solution.usage.prompt_tokens, solution.usage.completion_tokens) == (True, prompt, 10)
    assert [(of["input_tokens"], of["output_tokens"]) for of in seen.usage_metadata.values()] == [(prompt, 10)]


def test_the_command_solves_with_a_server_that_refuses_options(serve: Callable[[Answer], str], tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_text(json.dumps(PROBLEM))
    command = [sys.executable, "-m", "mucode_agent", "solve", str(file), "--n", "2", "--verifier", "none", "--json"]
    ended = subprocess.run(
        [*command, "--model", f"openai:m@{serve(refusing(EVERY))}"],
        env={**os.environ, "OPENAI_API_KEY": "k"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["solved"]
