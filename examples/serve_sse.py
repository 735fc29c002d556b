"""Solves over HTTP with server-sent events. A client that disconnects frees its slot, and its programs end at once.

Needs starlette and uvicorn. `python examples/serve_sse.py`, then
`curl -N -d @examples/problem.json http://127.0.0.1:8000/solve`.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import FakeListChatModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from mucode_agent import MucodeError, Solver, create_solver

REPLY = "```python\ndef is_palindrome(s):\n    return s.lower() == s.lower()[::-1]\n```"
SLOTS = 4  # solves at a time; the others wait


async def left(request: Request) -> None:
    """Returns when the client is gone. The server tells this through `receive` alone, not when it next sends."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def solve(request: Request) -> StreamingResponse:
    problem = await request.json()
    return StreamingResponse(events(request, problem), media_type="text/event-stream")


async def events(request: Request, problem: dict[str, Any]) -> AsyncIterator[str]:
    """The solver's events as they come, then its answer; ends the solve when the client disconnects."""
    solver: Solver = request.app.state.solver
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def run() -> None:
        try:
            async with request.app.state.slots:
                async for mode, item in solver.astream({"problem": problem}, stream_mode=["custom", "values"]):
                    if mode == "custom" or item.get("solution"):
                        queue.put_nowait(item)
        except MucodeError as error:
            queue.put_nowait({"error": str(error)})
        finally:
            queue.put_nowait(None)

    solving, watching = asyncio.create_task(run()), asyncio.create_task(left(request))
    watching.add_done_callback(lambda _: solving.cancel())
    try:
        while (item := await queue.get()) is not None:
            yield f"data: {json.dumps(item)}\n\n"
    finally:  # the answer is out, the client is gone, or the server ends
        watching.cancel()
        solving.cancel()
        await asyncio.gather(solving, watching, return_exceptions=True)


def create_app(solver: Solver, slots: int = SLOTS) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.solver, app.state.slots = solver, asyncio.Semaphore(slots)
        yield
        await asyncio.to_thread(solver.close)

    return Starlette(routes=[Route("/solve", solve, methods=["POST"])], lifespan=lifespan)


if __name__ == "__main__":
    import uvicorn

    model = FakeListChatModel(responses=[REPLY])  # or "smollm2", or any LangChain chat model
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    # Without this limit, SIGTERM would wait for clients that stay.
    uvicorn.run(create_app(create_solver(model)), port=port, timeout_graceful_shutdown=2, log_level="warning")
