"""`python -m mucode_agent serve`: the solver for other programs, until it is ended."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mucode_agent.adapters import need
from mucode_agent.types import InfrastructureError, ProblemError
from mucode_agent.verifiers import DEFAULT

if TYPE_CHECKING:
    from mucode_agent.graphs.solver import Solver

Model = Annotated[str, typer.Option(help="smollm2 · hf:PATH_OR_ID · vllm:NAME@URL · a URL · provider:model")]
N = Annotated[int, typer.Option("--n", help="Candidates per turn.")]
Turns = Annotated[int, typer.Option(help="Turns at most.")]
Scorer = Annotated[str, typer.Option(help="As of `solve`.")]
Place = Annotated[str, typer.Option(help="Where candidates run: local · e2b")]
Temperature = Annotated[float, typer.Option(help="Of sampling; 0 is greedy.")]
Tokens = Annotated[int, typer.Option(help="Of one completion.")]
Patience = Annotated[float | None, typer.Option(help="Seconds for one request to a model server.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one of this machine.")]


def serve(
    model: Model = "smollm2",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    slots: Annotated[int, typer.Option(min=1, help="Solves at a time; more wait.")] = 8,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that solves may still take at the end.")] = 10.0,
    n: N = 5,
    turns: Turns = 3,
    verifier: Scorer = DEFAULT,
    sandbox: Place = "local",
    temperature: Temperature = 0.7,
    max_tokens: Tokens = 1024,
    request_timeout: Patience = None,
) -> None:
    """Serve the solver by OpenAI's chat protocol, as the model `mucode` at http://HOST:PORT/v1.

    Ctrl-C or SIGTERM ends it with exit code 0: new requests are refused, solves may finish for --grace seconds.
    Clients must send MUCODE_SERVE_KEY as their API key where that is set.
    """
    need("serve", ("fastapi", "uvicorn"), "serve")
    from mucode_agent.adapters.openai_server import create_app

    with _solver(
        model, sandbox, verifier, request_timeout, n=n, max_turns=turns, temperature=temperature, max_tokens=max_tokens
    ) as solver:
        app = create_app(solver, slots=slots, key=os.environ.get("MUCODE_SERVE_KEY") or None)
        listen(app, host, port, grace, app.state.server.stop, app.state.server.cut, path="/v1")


def _solver(model: str, sandbox: str, verifier: str, request_timeout: float | None, **settings: Any) -> "Solver":
    """The solver, its model and sandbox loaded: what cannot be used is said now and not to the first client."""
    from mucode_agent.graphs.solver import create_solver

    solver = create_solver(model, sandbox=sandbox, verifier=verifier, request_timeout=request_timeout, **settings)
    solver.parts.model()
    solver.parts.started_sandbox()
    return solver


def listen(
    app: Any, host: str, port: int, grace: float, stop: Callable[[], None], cut: Callable[[], None], *, path: str
) -> None:
    """Runs an ASGI application until SIGINT or SIGTERM: `stop` is called then, `cut` after `grace` seconds.

    Raises ProblemError where the address cannot be had.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            stop()
            ending = asyncio.get_running_loop().call_later(grace, cut)
            await super().shutdown(sockets)
            ending.cancel()

    place = _bound(host, port)
    name = f"[{host}]" if ":" in host else host
    print(f"serving on http://{name}:{place.getsockname()[1]}{path}", file=sys.stderr, flush=True)  # noqa: T201
    # What still runs after `cut` has had five seconds to answer.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(grace) + 5)
    try:
        asyncio.run(Server(config).serve([place]))
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has ended
        return
    except SystemExit as stopped:
        raise InfrastructureError(f"the server did not start (code {stopped.code})") from None


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, socket.gaierror) else error
        if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
            cause = os.strerror(error.errno)  # without the address, which stands before it
        remedy = "end what listens there, or give another --port (0 takes a free one)"
        raise ProblemError(f"cannot listen on {host} port {port}: {cause}; {remedy}") from error
