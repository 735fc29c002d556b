"""The solver behind OpenAI's protocol, asked by the official clients, by clients that leave, and by hostile ones."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import openai
import pytest
from documents import fits_a_screen, snippets
from fakes import RuleSandbox, ScriptedModel, fenced
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from openai_server import serve as model_server
from processes import busy_programs, descendants
from waiting import auntil, until

from mucode_agent import create_solver
from mucode_agent.adapters.openai_server import create_app

uvicorn = pytest.importorskip("uvicorn", reason="pip install 'mucode-agent[serve]'")

GOOD, BAD, ENDLESS = "def f(x):\n    return x + 1", "def f(x):\n    return x", "def f(x):\n    while True: pass"
TASK = "Write f, which adds one.\nassert f(1) == 2"
ASKED: dict[str, Any] = {"model": "mucode", "messages": [{"role": "user", "content": TASK}]}
LONG = {"prompt": "Add.", "entry_point": "f", "public_tests": ["assert f(1) == 2"], "limits": {"time_s": 600}}


def scripted(*replies: str, sandbox: Any = None, **settings: Any) -> Any:
    place = sandbox or RuleSandbox(lambda code: "x + 1" in code)
    model = ScriptedModel(replies=list(map(fenced, replies)))
    return create_solver(model, sandbox=place, verifier="none", **{"n": 1, "max_turns": 2, **settings})


@asynccontextmanager
async def served(solver: Any, **options: Any) -> AsyncIterator[tuple[str, Any]]:
    app = create_app(solver, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    running = asyncio.create_task(server.serve())
    await auntil(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1", app.state.server
    server.should_exit = True
    await running


def client(url: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, **{"api_key": "none", "max_retries": 0, **options})


async def test_the_official_client_gets_a_tested_answer() -> None:
    async with served(scripted(BAD, GOOD)) as (url, _), client(url) as ask:
        answer = await ask.chat.completions.create(**ASKED)
        [model] = (await ask.models.list()).data
    assert model.id == "mucode"
    assert GOOD in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 30
    details: Any = answer.model_extra and answer.model_extra["mucode"]
    assert (details["solved"], details["turns"], details["solution"]["best"]["code"]) == (True, 2, GOOD)
    assert "assert f(1) == 2" in details["understood"]


async def test_a_stream_tells_of_the_solve_and_then_the_answer() -> None:
    async with served(scripted(GOOD)) as (url, _), client(url) as ask:
        stream = await ask.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    extensions = [(c.model_extra or {})["mucode"] for c in chunks if "mucode" in (c.model_extra or {})]
    assert GOOD in text
    assert "mucode.candidate_executed" in [item.get("event") for item in extensions]
    assert extensions[-1]["solved"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_langchain_openai_asks_and_streams() -> None:
    async with served(scripted(GOOD)) as (url, _):
        model: Any = ChatOpenAI(base_url=url, model="mucode", api_key="none", max_retries=0)  # type: ignore[arg-type]
        assert GOOD in (await model.ainvoke([HumanMessage(TASK)])).text
        parts = [part.text async for part in model.astream([HumanMessage([{"type": "text", "text": TASK}])])]
        assert GOOD in "".join(parts)


async def test_a_problem_goes_in_by_the_extension_field() -> None:
    problem = {"prompt": "Add one.", "public_tests": ["assert f(1) == 2"]}
    async with served(scripted(GOOD)) as (url, _), client(url) as ask:
        answer = await ask.chat.completions.create(
            model="mucode", messages=[{"role": "user", "content": "."}], extra_body={"mucode": {"problem": problem}}
        )
    assert answer.model_extra is not None
    assert answer.model_extra["mucode"]["solved"]


async def test_many_requests_at_once_are_all_answered() -> None:
    solver = scripted(GOOD)
    async with served(solver, slots=4) as (url, _), client(url) as ask:
        answers = await asyncio.gather(*(ask.chat.completions.create(**ASKED) for _ in range(32)))
    assert len({answer.id for answer in answers}) == 32
    assert all(GOOD in (answer.choices[0].message.content or "") for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_its_slot_and_ends_its_programs(stream: bool) -> None:
    solver = scripted(ENDLESS, GOOD, sandbox="local", max_turns=1)
    async with served(solver, slots=1) as (url, _), client(url) as ask:
        asked = {**ASKED, "stream": stream, "mucode": {"problem": LONG}}
        async with httpx.AsyncClient() as leaving:

            async def leave() -> None:
                async with leaving.stream("POST", f"{url}/chat/completions", json=asked) as answer:
                    await answer.aread()

            request = asyncio.create_task(leave())
            await auntil(lambda: bool(solver.parts._sandbox and solver.parts._sandbox._futures))
            [running] = solver.parts._sandbox._futures
            request.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await request
        await auntil(running.cancelled)
        answer = await ask.chat.completions.create(**ASKED)
    assert GOOD in (answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "the body is no JSON"),
        ("{}", 400, "model is missing"),
        ('{"model": "mucode", "messages": []}', 400, "messages is empty"),
        ('{"model": "mucode", "messages": [{"role": "user"}]}', 400, "messages cannot be read"),
        ('{"model": "mucode", "messages": [{"role": "user", "content": 7}]}', 400, "text or a list of parts"),
        ('{"model": "mucode", "messages": [{"role": "system", "content": "x"}]}', 400, "no human message"),
        ('{"model": "mucode", "messages": [{"role": "user", "content": " "}]}', 400, "the message is empty"),
        ('{"model": "mucode", "n": 2, "messages": [{"role": "user", "content": "x"}]}', 400, "n must be 1, got 2"),
        ('{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}', 404, "no model is called 'gpt-9'"),
        ('{"model": "mucode", "messages": ["x"]}', 400, "messages.0"),
        ('{"model": "mucode", "n": -1, "messages": [{"role": "user", "content": "x"}]}', 400, "n must be 1, got -1"),
        ('{"model": "mucode", "stream": 2, "messages": [{"role": "user", "content": "x"}]}', 400, "true or false"),
        ('{"model": 7, "messages": [{"role": "user", "content": "x"}]}', 400, "model must be text"),
        ('{"model": "mucode", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "unicode"),
        pytest.param(
            '{"model": "mucode", "messages": [{"role": "user", "content": "' + "x" * 50_000 + '"}]}',
            400,
            "the message has 50000 characters",
            id="a long message",
        ),
        pytest.param(" " * (9 << 20), 413, "send a shorter message", id="9 MB"),
        ('{"model": "mucode", "mucode": {"x": 1}, "messages": [{"role": "user", "content": "x"}]}', 400, "mucode.x"),
    ],
)
async def test_a_request_that_cannot_be_used_is_answered_in_one_sentence(body: str, status: int, words: str) -> None:
    async with served(scripted(GOOD)) as (url, _), httpx.AsyncClient() as ask:
        headers = {"content-type": "application/json"}
        answer = await ask.post(f"{url}/chat/completions", content=body, headers=headers)
        lost = await ask.get(f"{url}/completions")
    assert (answer.status_code, lost.status_code) == (status, 404)
    assert words in answer.json()["error"]["message"]
    assert "is unknown" in lost.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"model": "mucode", "messages": "\xff"}', b'{"seed": ' + b"9" * 6000 + b"}", b"\x1f\x8b\x08"],
    ids=["deep", "no UTF-8", "an integer of 6000 digits", "gzip"],
)
async def test_a_body_that_no_parser_takes_is_answered_in_one_sentence(body: bytes) -> None:
    async with served(scripted(GOOD)) as (url, _), httpx.AsyncClient() as ask:
        answer = await ask.post(f"{url}/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "the body is no JSON" in answer.json()["error"]["message"]


SECRET = "THE_SECRET"


@pytest.mark.parametrize(
    "extension",
    [
        {"problem": {**LONG, "private_tests": [f"assert f('{SECRET}') == 1"], "reference": f"# {SECRET}"}},
        {"problem": {**LONG, "private_tests": [f"assert f({SECRET} =="]}},
        {"problem": {**LONG, "private_tests": [f"print('{SECRET}')"]}},
        {"problem": {**LONG, "private_tests": SECRET}},
        {"problem": {**LONG, "private_tests": [{"stdin": SECRET}]}},
        {"problem": {"task_id": "x/1", "prompt": "def f(x):\n", "entry_point": "f", "test": f"assert '{SECRET}' ("}},
        {
            "problem": {
                "task_id": "x/1",
                "prompt": "def f(x):\n",
                "entry_point": "f",
                "test": f"assert f(1) == '{SECRET}'",
            }
        },
        {"problem": SECRET},
        SECRET,
    ],
    ids=[
        "whole",
        "no Python",
        "no test",
        "text",
        "half",
        "HumanEval, broken",
        "HumanEval",
        "no problem",
        "no extension",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_private_tests_of_a_request_are_in_no_answer_and_no_log(
    extension: Any, stream: bool, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with served(scripted(BAD, max_turns=1)) as (url, _), httpx.AsyncClient() as ask:
        answer = await ask.post(f"{url}/chat/completions", json={**ASKED, "stream": stream, "mucode": extension})
    assert answer.status_code in (200, 400)
    assert SECRET not in answer.text
    assert SECRET not in "".join(capfd.readouterr()) + caplog.text


async def test_a_message_of_asserts_without_an_end_is_refused() -> None:
    """Each could stop anywhere: to try all ends took minutes, in which no other client was answered."""
    asked = {**ASKED, "messages": [{"role": "user", "content": "Write f. " + "assert f(" * 4000}]}
    async with served(scripted(GOOD)) as (url, _), httpx.AsyncClient(timeout=60) as ask:
        answer = await ask.post(f"{url}/chat/completions", json=asked)
    assert answer.status_code == 400
    assert "on a line of its own" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_broken_model_is_an_error_of_the_server(stream: bool) -> None:
    def broken(_: Any) -> Any:
        raise ConnectionError("refused")

    solver = create_solver(RunnableLambda(broken), sandbox=RuleSandbox(lambda _: True), n=1)
    async with served(solver) as (url, _), client(url) as ask:

        async def read() -> None:
            answer: Any = await ask.chat.completions.create(**ASKED, stream=stream)
            _ = [chunk async for chunk in answer]

        with pytest.raises(openai.APIError, match="refused") as raised:
            await read()
    assert stream or getattr(raised.value, "status_code", None) == 502


async def test_a_key_is_asked_for_where_there_is_one() -> None:
    async with served(scripted(GOOD), key="secret") as (url, _):
        async with client(url) as ask:
            with pytest.raises(openai.AuthenticationError, match="MUCODE_SERVE_KEY"):
                await ask.models.list()
            with pytest.raises(openai.AuthenticationError):
                await ask.chat.completions.create(**ASKED)
        async with client(url, api_key="secret") as ask:
            assert (await ask.models.list()).data


async def test_a_server_that_ends_refuses_and_then_cuts() -> None:
    solver = scripted(ENDLESS, sandbox="local", max_turns=1)
    async with served(solver) as (url, server), client(url) as ask:
        given = {**ASKED, "extra_body": {"mucode": {"problem": LONG}}}
        solving = asyncio.create_task(ask.chat.completions.create(**given))
        await auntil(lambda: bool(solver.parts._sandbox and solver.parts._sandbox._futures))
        server.stop()
        with pytest.raises(openai.InternalServerError, match="the server is shutting down"):
            await ask.chat.completions.create(**ASKED)
        server.cut()
        with pytest.raises(openai.InternalServerError, match="the server is shutting down"):
            await solving


async def test_half_a_request_at_the_end_of_a_server_is_refused_and_is_no_failure() -> None:
    given: list[Any] = [{"type": "http.request", "body": b'{"model":', "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not given:
            raise asyncio.CancelledError  # as from uvicorn whose time to end is over
        return given.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}
    await create_app(scripted(GOOD))({**scope, "http_version": "1.1", "scheme": "http"}, receive, send)
    assert sent[0]["status"] == 503
    assert b"send it again" in sent[1]["body"]


# --- the command ---------------------------------------------------------------------------------------------------


@contextmanager
def command(reply: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`serve` in a process of its own, and its URL."""
    with model_server([fenced(reply)]) as model:
        words = [
            "serve",
            "--port",
            "0",
            "--model",
            f"openai:scripted@{model.url}",
            "--n",
            "1",
            "--turns",
            "1",
            *options,
        ]
        with subprocess.Popen([sys.executable, "-m", "mucode_agent", *words], stderr=subprocess.PIPE, text=True) as it:
            try:
                assert it.stderr is not None
                yield it, it.stderr.readline().split()[-1]
            finally:
                it.kill()


def test_the_page_says_what_is_true_and_sigterm_ends_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    with command("def inc(x):\n    return x + 1") as (server, url):
        page: dict[str, Any] = {}
        for code in snippets("serve.md"):
            exec(code.replace("http://localhost:8000/v1", url), page)
        page["client"].close()
        page["stream"].close()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    shown = capsys.readouterr().out
    assert "The code passes all tests." in shown
    assert "True 1" in shown
    assert "mucode.candidate_executed" in shown
    assert fits_a_screen("serve.md")


def test_sigterm_lets_solves_finish_or_cuts_them_and_leaves_nothing_behind() -> None:
    with (
        command(ENDLESS, "--grace", "0.5") as (server, url),
        openai.OpenAI(base_url=url, api_key="x", max_retries=0) as ask,
    ):
        answers: list[BaseException] = []

        def solve() -> None:
            try:
                ask.chat.completions.create(**ASKED, extra_body={"mucode": {"problem": LONG}})
            except openai.APIError as error:
                answers.append(error)

        solving = threading.Thread(target=solve)
        solving.start()
        until(lambda: busy_programs(server.pid))
        below = descendants(server.pid)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        solving.join(30)
    assert "the server is shutting down" in str(answers[0])
    assert not [pid for pid in below if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, model_server([fenced(GOOD)]) as model:
        words = ["--port", str(taken.getsockname()[1]), "--model", f"openai:scripted@{model.url}"]
        done = subprocess.run(
            [sys.executable, "-m", "mucode_agent", "serve", *words], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "Address already in use; end what listens there" in done.stderr
