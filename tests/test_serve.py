"""The solver behind uvicorn: a client that disconnects frees its slot, and SIGTERM's graceful end takes seconds."""

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedModel, fenced
from waiting import auntil

from mucode_agent import create_solver

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

GOOD, ENDLESS = "def f(x):\n    return x + 1", "def f(x):\n    while True: pass"
PROBLEM = {
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "limits": {"time_s": 600},
}


@asynccontextmanager
async def served(solver: Any) -> AsyncIterator[int]:
    """The example with one slot, on a port of its own; ended as SIGTERM ends it."""
    place = Path(__file__).parents[1] / "examples/serve_sse.py"
    spec = importlib.util.spec_from_file_location("serve_sse", place)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    config = uvicorn.Config(
        example.create_app(solver, slots=1), port=0, log_level="critical", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    await auntil(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def post(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(PROBLEM).encode()
    head = f"POST /solve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def test_a_client_that_disconnects_frees_its_slot_and_ends_its_programs() -> None:
    solver = create_solver(ScriptedModel(replies=[fenced(ENDLESS), fenced(GOOD)]), verifier="none", n=1, max_turns=1)
    async with served(solver) as port:
        _, leaving = await post(port)
        await auntil(lambda: bool(solver.parts._sandbox and solver.parts._sandbox._futures))
        [running] = solver.parts._sandbox._futures  # type: ignore[union-attr]
        leaving.close()
        await auntil(running.cancelled)
        reader, writer = await post(port)
        assert b'"solved": true' in await reader.read()
        writer.close()


async def test_a_server_ends_in_seconds_while_endless_programs_run() -> None:
    solver = create_solver(ScriptedModel(replies=[fenced(ENDLESS)]), verifier="none", n=1)
    async with served(solver) as port:
        _, staying = await post(port)
        await auntil(lambda: bool(solver.parts._sandbox and solver.parts._sandbox._futures))
        [running] = solver.parts._sandbox._futures  # type: ignore[union-attr]
    assert running.cancelled()
    staying.close()
