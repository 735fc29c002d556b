"""A soak on loopback: solves in one process, half of them cancelled, and behind uvicorn with clients that disconnect.

`python benchmarks/soak.py [SOLVES] [AT_A_TIME]` (2000 and 50): prints processes, threads, open descriptors and resident
memory of this process before, after a tenth, at the end, and when all solvers are dropped. Scripted models; every third
program never ends. Solvers are made, shared by some solves and dropped.
"""

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from langchain_core.language_models import FakeListChatModel

from mucode_agent import Solver, create_solver

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

PROBLEM = {
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "limits": {"time_s": 60, "memory_mb": 64},
}
GOOD, ENDLESS = ("def f(x):\n    return x + 1", "def f(x):\n    while True: pass")
PER_SOLVER = 20
Solve = Callable[[int, bool], Awaitable[str]]


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found + [below for child in found for below in children(child)]


def usage() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    return {
        "processes": len(children(os.getpid())),
        "threads": int(status.partition("Threads:")[2].split()[0]),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "memory_mb": int(status.partition("VmRSS:")[2].split()[0]) // 1024,
    }


def make(endless: bool) -> Solver:
    reply = f"```python\n{ENDLESS if endless else GOOD}\n```"
    return create_solver(FakeListChatModel(responses=[reply]), n=2, verifier="none")


async def in_process(number: int, cancelled: bool, solvers: dict[int, tuple[Solver, Solver]]) -> str:
    place = number // PER_SOLVER
    pair = solvers.setdefault(place, (make(False), make(True)))
    for old in [key for key in solvers if key < place - 5]:
        del solvers[old]
    task = asyncio.create_task(pair[cancelled].ainvoke({"problem": PROBLEM}))
    if not cancelled:
        return "solved" if (await task)["solution"]["solved"] else "not solved"
    await asyncio.sleep(random.random() * 0.5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return "cancelled"


async def over_http(number: int, cancelled: bool, port: int) -> str:
    del number
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({**PROBLEM, "prompt": "endless" if cancelled else "good"}).encode()
        head = f"POST /solve HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        if cancelled:
            await asyncio.sleep(random.random() * 0.5)
            return "disconnected"
        return "solved" if b'"solved": true' in await reader.read() else "not solved"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def soak(name: str, solves: int, at_a_time: int, one: Solve) -> None:
    gate, ends = asyncio.Semaphore(at_a_time), dict[str, int]()

    async def bounded(number: int) -> None:
        async with gate:
            end = await one(number, number % 2 == 1)
            ends[end] = ends.get(end, 0) + 1

    started = time.monotonic()
    await asyncio.gather(*map(bounded, range(solves // 10)))
    gc.collect()
    await asyncio.sleep(1)
    print(f"{name}, after {solves // 10}:", usage(), flush=True)
    await asyncio.gather(*map(bounded, range(solves // 10, solves)))
    gc.collect()
    await asyncio.sleep(1)
    print(f"{name}, after {solves} in {time.monotonic() - started:.0f} s:", usage(), ends, flush=True)


class ByPrompt(FakeListChatModel):
    """Endless where the prompt says so."""

    def _call(self, messages: Any, *_: Any, **__: Any) -> str:
        text = "\n".join(str(message.content) for message in messages)
        return f"```python\n{ENDLESS if 'endless' in text else GOOD}\n```"


async def serve(solves: int, at_a_time: int) -> None:
    import uvicorn
    from serve_sse import create_app  # type: ignore[import-not-found]

    solver = create_solver(ByPrompt(responses=["x"]), n=2, verifier="none")
    config = uvicorn.Config(create_app(solver, at_a_time), port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - it announces nothing
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    await soak("uvicorn", solves, at_a_time, lambda number, cancelled: over_http(number, cancelled, port))
    server.should_exit = True
    await running


async def main(solves: int, at_a_time: int) -> None:
    print("before:", usage(), flush=True)
    solvers: dict[int, tuple[Solver, Solver]] = {}
    await soak("in process", solves, at_a_time, lambda number, cancelled: in_process(number, cancelled, solvers))
    solvers.clear()
    gc.collect()
    await asyncio.sleep(2)
    print("all solvers dropped:", usage(), flush=True)
    await serve(solves, at_a_time)
    gc.collect()
    await asyncio.sleep(2)
    print("server ended:", usage(), flush=True)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(numbers + [2000, 50][len(numbers) :])))
