"""Solves over HTTP: `uvicorn --app-dir examples serve_sse:app --timeout-graceful-shutdown 2`, then
`curl -N -d @examples/problem.json http://127.0.0.1:8000/solve`. A client that disconnects frees its slot at once.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from mucode_agent import MucodeError, ScriptedModel, Solver, create_solver

REPLY = "```python\ndef is_palindrome(s):\n    return s.lower() == s.lower()[::-1]\n```"


async def solve(request: Request) -> StreamingResponse:
    given, solver, said = {"problem": await request.json()}, request.app.state.solver, asyncio.Queue()

    async def run() -> None:
        try:
            async with request.app.state.slots:
                async for mode, item in solver.astream(given, stream_mode=["custom", "values"]):
                    if mode == "custom" or item.get("solution"):
                        said.put_nowait(item)
        except (MucodeError, asyncio.CancelledError) as error:
            said.put_nowait({"error": str(error)})
        said.put_nowait(None)

    async def events() -> AsyncIterator[str]:
        solving, watching = asyncio.create_task(run()), asyncio.create_task(gone(request))
        watching.add_done_callback(lambda _: solving.cancel())
        while (item := await said.get()) is not None:
            yield f"data: {json.dumps(item)}\n\n"
        watching.cancel()

    return StreamingResponse(events(), media_type="text/event-stream")


async def gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(solver: Solver, slots: int) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.solver, app.state.slots = solver, asyncio.Semaphore(slots)
        yield
        await asyncio.to_thread(solver.close)

    return Starlette(routes=[Route("/solve", solve, methods=["POST"])], lifespan=lifespan)


app = create_app(create_solver(ScriptedModel(replies=[REPLY])), slots=4)  # or "qwen0.5b", or any LangChain model
