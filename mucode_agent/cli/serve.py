"""`python -m mucode_agent serve | mcp`: the solver for other programs."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mucode_agent.adapters import need
from mucode_agent.cli.evaluate import ModelSpec, RequestTimeout
from mucode_agent.cli.options import RUNNING, SAMPLING, Fields, command
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.models.embedded import DEFAULT_MODEL
from mucode_agent.runs.running import Running
from mucode_agent.types import InfrastructureError, ProblemError
from mucode_agent.verifiers import DEFAULT

if TYPE_CHECKING:
    from mucode_agent.graphs.solver import Solver

SEARCH = Fields("n", "max_turns", *SAMPLING)
Scorer = Annotated[str, typer.Option(help="As of `solve`.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses of this machine.")]


@command
def serve(
    search: Annotated[StatedSettings, SEARCH],
    running: Annotated[Running, RUNNING],
    model: ModelSpec = DEFAULT_MODEL,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    slots: Annotated[int, typer.Option(min=1, help="Concurrent solves; further requests wait.")] = 8,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running solves may still take after Ctrl-C or SIGTERM.")
    ] = 10.0,
    verifier: Scorer = DEFAULT,
    request_timeout: RequestTimeout = None,
) -> None:
    """Serve the solver by OpenAI's chat protocol, as the model `mucode` at http://HOST:PORT/v1.

    Ctrl-C or SIGTERM ends it with exit code 0: new requests are refused, solves may finish for --grace seconds. If
    MUCODE_SERVE_KEY is set, clients must send it as their API key.
    """
    need("serve", ("fastapi", "uvicorn"), "serve")
    from mucode_agent.adapters.openai_server import create_app

    with _solver(model, running, verifier, request_timeout, search) as solver:
        if callable(load := getattr(solver.parts.model(), "engine", None)):  # of a model in this process
            load()
        app = create_app(solver, slots=slots, key=os.environ.get("MUCODE_SERVE_KEY") or None)
        server = app.state.server
        # What still runs after `cut` has five seconds to answer.
        listen(app, host, port, path="/v1", limit=int(grace) + 5, stop=server.stop, cut=(grace, server.cut))


@command
def mcp(
    search: Annotated[StatedSettings, SEARCH],
    running: Annotated[Running, RUNNING],
    model: ModelSpec = DEFAULT_MODEL,
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP instead of standard input and output.")] = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    verifier: Scorer = DEFAULT,
    request_timeout: RequestTimeout = None,
) -> None:
    """Serve solve_coding_problem, run_python and run_tests over MCP, on standard input and output or over HTTP.

    The end of its input, Ctrl-C or SIGTERM ends it with exit code 0 and kills running programs.
    """
    need("mcp", ("mcp",), "mcp")
    from mucode_agent.adapters.mcp_server import create_server, http_app

    with _solver(model, running, verifier, request_timeout, search) as solver:
        server = create_server(solver, search, host=host)
        if http:
            listen(http_app(server, host), host, port, path="/mcp", limit=1)
            return
        asyncio.run(_on_standard_input(server, solver))


@contextlib.contextmanager
def _solver(
    model: str, running: Running, verifier: str, request_timeout: float | None, search: StatedSettings
) -> Iterator["Solver"]:
    """The solver with its model and sandbox loaded, so errors appear at the start and not at the first client."""
    from mucode_agent.graphs.solver import create_solver

    with (
        contextlib.closing(running.open_for_any()) as place,
        create_solver(
            model, sandbox=place, verifier=verifier, request_timeout=request_timeout, **search.options()
        ) as solver,
    ):
        solver.parts.model()
        solver.parts.started_sandbox()
        yield solver


async def _on_standard_input(server: Any, solver: "Solver") -> None:
    """Serves until the input ends, or a signal comes."""
    import anyio

    ended, loop, place = asyncio.Event(), asyncio.get_running_loop(), solver.parts.sandbox()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    serving, waiting = asyncio.create_task(server.run_stdio_async()), asyncio.create_task(ended.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():  # the server's thread waits for a line; nothing else wakes it
        await asyncio.to_thread(place.close)
        os._exit(0)
    waiting.cancel()
    try:
        serving.result()
    except* anyio.ClosedResourceError:  # the input ended while a malformed line was being answered
        pass


def listen(
    app: Any,
    host: str,
    port: int,
    *,
    path: str,
    limit: int,
    stop: Callable[[], None] | None = None,
    cut: tuple[float, Callable[[], None]] | None = None,
) -> None:
    """Runs an ASGI application until SIGINT or SIGTERM, and then for `limit` more seconds while requests run.

    `stop` is called at the signal, `cut` after those seconds. Raises ProblemError if the address cannot be used.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            if stop:
                stop()
            ending = asyncio.get_running_loop().call_later(*cut) if cut else None
            await super().shutdown(sockets)
            if ending:
                ending.cancel()

    place = _bound(host, port)
    name = f"[{host}]" if ":" in host else host
    print(f"serving on http://{name}:{place.getsockname()[1]}{path}", file=sys.stderr, flush=True)  # noqa: T201
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=limit)
    try:
        asyncio.run(Server(config).serve([place]))
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has ended
        return
    except SystemExit as stopped:
        raise InfrastructureError(f"the server did not start (code {stopped.code})") from None


_REMEDIES = {
    errno.EADDRINUSE: "end what listens there, or give another --port (0 takes a free one)",
    errno.EACCES: "give a --port above 1023",
}


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, socket.gaierror) else error
        if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
            cause = os.strerror(error.errno)  # without the address, which stands before it
        remedy = _REMEDIES.get(getattr(error, "errno", None) or 0, "give --host an address of this machine")
        raise ProblemError(f"cannot listen on {host} port {port}: {cause}; {remedy}") from error
