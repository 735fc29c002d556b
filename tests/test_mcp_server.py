"""The tools over MCP, asked by the official client and by LangChain's adapters, over both transports."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import jsonschema
import pytest
from documents import fits_a_screen, snippets
from fakes import ScriptedModel, fenced
from openai_server import serve as model_server
from processes import descendants
from waiting import auntil

from mucode_agent import create_solver

pytest.importorskip("mcp", reason="pip install 'mucode-agent[mcp]'")
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from mucode_agent.adapters.mcp_server import VERSION_2, create_server

if VERSION_2:
    from mcp import Client

    @asynccontextmanager
    async def connected(server: Any) -> AsyncIterator[Any]:
        async with Client(server) as client:
            yield client
else:
    from mcp.shared.memory import create_connected_server_and_client_session

    @asynccontextmanager
    async def connected(server: Any) -> AsyncIterator[Any]:
        async with create_connected_server_and_client_session(server) as session:
            yield session


GOOD, BAD, ENDLESS = "def f(x):\n    return x + 1", "def f(x):\n    return x", "def f(x):\n    while True: pass"
TASK = {"prompt": "Write f, which adds one.", "tests": ["assert f(1) == 2"]}


def plain(result: Any) -> dict[str, Any]:
    """A result as it crosses the wire."""
    data: dict[str, Any] = result.model_dump(mode="json", by_alias=True)
    return data


def text(result: Any) -> str:
    return str(result.content[0].text)


@asynccontextmanager
async def tools(*replies: str, **settings: Any) -> AsyncIterator[Any]:
    model = ScriptedModel(replies=list(map(fenced, replies)) or [fenced(GOOD)])
    with create_solver(model, verifier="none", **{"n": 1, "max_turns": 2, **settings}) as solver:
        async with connected(create_server(solver)) as session:
            yield session


async def test_the_tools_declare_what_they_take_and_give() -> None:
    async with tools() as session:
        declared = {tool["name"]: tool for tool in plain(await session.list_tools())["tools"]}
    assert set(declared) == {"solve_coding_problem", "run_python", "run_tests"}
    for tool in declared.values():
        assert tool["description"]
        assert all("description" in field for name, field in tool["inputSchema"]["properties"].items())
        jsonschema.Draft202012Validator.check_schema(tool["outputSchema"])
    assert declared["solve_coding_problem"]["inputSchema"]["required"] == ["prompt"]


async def test_a_solve_answers_in_text_and_structure_and_tells_its_progress() -> None:
    reported: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        reported.append((done, total, message))

    async with tools(BAD, GOOD) as session:
        answer = await session.call_tool("solve_coding_problem", TASK, progress_callback=progress)
        schema = plain(await session.list_tools())["tools"][0]["outputSchema"]
    content = plain(answer)["structuredContent"]
    jsonschema.validate(content, schema)
    assert (content["solved"], content["turns"], content["code"]) == (True, 2, GOOD)
    assert "The code passes all tests." in text(answer)
    assert reported[0] == (1.0, 15.0, "turn 1: wrong_answer, 0 of 1 tests pass")
    assert reported[1][0] == 2.0


async def test_programs_run_and_are_judged() -> None:
    async with tools() as session:
        ran = await session.call_tool("run_python", {"code": "print(input() * 2)", "stdin": "ab"})
        judged = await session.call_tool("run_tests", {"code": BAD, "tests": ["assert f(1) == 2"]})
        judged_stdio = await session.call_tool(
            "run_tests", {"code": "print(int(input()) * 2)", "tests": [{"stdin": "2", "stdout": "4"}]}
        )
    assert text(ran) == "abab"
    assert plain(ran)["structuredContent"]["status"] == "ok"
    assert "Expected: 2" in text(judged)
    assert plain(judged)["structuredContent"]["status"] == "wrong_answer"
    assert text(judged_stdio) == "1 of 1 tests passed."


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("solve_coding_problem", {**TASK, "tests": ["assert f(1 =="]}, "public_tests[0] does not parse"),
        ("solve_coding_problem", {"prompt": ""}, "at least 1 character"),
        ("solve_coding_problem", {}, "prompt"),
        ("run_tests", {"code": GOOD, "tests": ["assert f(1"]}, "does not parse"),
        ("run_tests", {"code": GOOD, "tests": []}, "at least 1 item"),
        ("run_python", {"cod": "1"}, "code"),
        ("nothing", {}, "nothing"),
    ],
)
async def test_a_call_that_cannot_be_used_is_an_error_of_the_tool(
    tool: str, arguments: dict[str, Any], words: str
) -> None:
    async with tools() as session:
        answer = await session.call_tool(tool, arguments)
    assert plain(answer)["isError"]
    assert words in text(answer)


async def test_a_call_that_is_cancelled_ends_its_programs() -> None:
    problem = {**TASK, "tests": ["assert f(1) == 2"]}
    solver = create_solver(ScriptedModel(replies=[fenced(ENDLESS)]), verifier="none", n=1, max_turns=1)
    async with connected(create_server(solver)) as session:
        calling = asyncio.create_task(session.call_tool("solve_coding_problem", problem))
        sandbox: Any = solver.parts.sandbox()
        await auntil(lambda: sandbox._futures)
        [running] = sandbox._futures
        await cancel(session, calling)
        await auntil(running.done)
    assert running.cancelled()
    solver.close()


async def cancel(session: Any, calling: "asyncio.Task[Any]") -> None:
    """As each client cancels: 2.x by itself, 1.x by a notification that names the request."""
    if VERSION_2:
        calling.cancel()
        return
    from mcp.types import CancelledNotification, CancelledNotificationParams, ClientNotification

    number = session._request_id - 1
    note = CancelledNotification(params=CancelledNotificationParams(requestId=number))
    await session.send_notification(ClientNotification(note))
    with pytest.raises(Exception, match="cancelled"):
        await calling


# --- the command ---------------------------------------------------------------------------------------------------


@contextmanager
def words(reply: str) -> Iterator[list[str]]:
    with model_server([fenced(reply)]) as model:
        yield ["-m", "mucode_agent", "mcp", "--model", f"openai:scripted@{model.url}", "--n", "1", "--turns", "1"]


async def test_the_official_client_speaks_to_the_command_on_standard_input() -> None:
    with words("def inc(x):\n    return x + 1") as arguments:
        parameters = StdioServerParameters(command=sys.executable, args=arguments)
        async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            task = {"prompt": "Write inc(x).", "tests": ["assert inc(1) == 2"]}
            answer = await session.call_tool("solve_coding_problem", task)
    assert plain(answer)["structuredContent"]["solved"]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, None])
def test_the_command_ends_with_its_input_or_a_signal_and_leaves_nothing(sign: int | None) -> None:
    with (
        words(GOOD) as arguments,
        subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        hello = (
            b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18", '
            b'"capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}}\n'
        )
        server.stdin.write(hello)
        server.stdin.flush()
        assert b'"serverInfo"' in server.stdout.readline()
        below = descendants(server.pid)
        if sign is None:
            server.stdin.close()
        else:
            server.send_signal(sign)
        assert server.wait(30) == 0
        assert below
        assert not [pid for pid in below if os.path.exists(f"/proc/{pid}")]  # noqa: PTH110


@pytest.mark.skipif(VERSION_2, reason="langchain-mcp-adapters needs mcp<2")
def test_the_page_says_what_is_true_over_http(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("langchain_mcp_adapters", reason="pip install langchain-mcp-adapters")
    with (
        words("def inc(x):\n    return x + 1") as arguments,
        subprocess.Popen(
            [sys.executable, *arguments, "--http", "--port", "0"], stderr=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1]
        try:
            page: dict[str, Any] = {}
            [code] = snippets("mcp.md")
            exec(code.replace("http://localhost:8000/mcp", url), page)
            asyncio.run(page["main"]())
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
        finally:
            server.kill()
    shown = capsys.readouterr().out
    assert "42" in shown
    assert "The code passes all tests." in shown
    assert fits_a_screen("mcp.md")
