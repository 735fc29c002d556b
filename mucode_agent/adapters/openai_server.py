"""The solver behind OpenAI's chat protocol: `/v1/chat/completions`, streamed or not, and `/v1/models`.

The last user message is the task, as `prose.problem_in` reads it. The extension field `mucode` of a request may
contain a whole problem instead; that of an answer contains the verdict and the solution. Sampling options of a request
are ignored; the solver's own apply. The protocol: https://platform.openai.com/docs/api-reference/chat.
"""

import asyncio
import contextlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from langchain_core.messages import convert_to_messages
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mucode_agent import __version__
from mucode_agent.files import cause_of
from mucode_agent.graphs.embed import response_of, task_in
from mucode_agent.graphs.solver import Solver
from mucode_agent.types import MucodeError, Problem, ProblemError, Solution

MODEL = "mucode"
"""The name under which the solver is served."""
MOST_BODY = 8 << 20
"""Maximum bytes of a request's body."""


class Extension(BaseModel):
    """Our extension of OpenAI's fields."""

    model_config = ConfigDict(extra="forbid")

    problem: dict[str, Any] | None = None
    """A problem in JSON form, instead of the task in the last message."""


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields that are read; OpenAI's other fields are accepted and ignored."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    mucode: Extension | None = None


class Stopping(Exception):  # noqa: N818 - a state, answered as one
    """The server shut down before this solve ended."""


class Server:
    """State shared by the routes: one solver, its slots, and the running solves."""

    def __init__(self, solver: Solver, *, slots: int, key: str | None) -> None:
        self._solver, self._slots, self._key = solver, asyncio.Semaphore(slots), key
        self._solves: set[asyncio.Task[None]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Refuses new requests; running ones may finish until `cut`."""
        self._stopping = True

    def cut(self) -> None:
        """Ends the running solves and their programs."""
        self._stopping = True
        for solve in self._solves:
            solve.cancel()

    def admit(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._key is not None and not secrets.compare_digest(given.encode(), self._key.encode()):
            raise HTTPException(401, "the API key is wrong or missing: send the server's MUCODE_SERVE_KEY as Bearer")
        if self._stopping:
            raise Stopping

    def problem(self, asked: ChatRequest) -> Problem:
        """Raises ProblemError, or HTTPException for a model that is not there."""
        if asked.model != MODEL:
            raise HTTPException(404, f"no model is called {asked.model[:80]!r} here: ask for {MODEL!r}")
        try:
            messages = convert_to_messages(asked.messages)
        except ValidationError as error:
            raise ProblemError("messages cannot be read: a content must be text or a list of parts") from error
        except Exception as error:  # each form of message fails in its own way
            raise ProblemError(f"messages cannot be read: {str(error).splitlines()[0]}") from error
        try:
            return task_in(messages, asked.mucode.problem if asked.mucode else None)
        except ProblemError as error:
            if "private_tests" not in str(error):
                raise
        raise ProblemError(
            "the private tests of the problem cannot be used; leave them out: they are dropped here, and nothing is "
            "judged after the solve"
        )

    async def solve(self, request: Request, problem: Problem) -> AsyncGenerator[dict[str, Any]]:
        """The solve's events and then its `{"solution": …}`. If the client disconnects, the solve and its programs end.

        Raises Stopping, and what the solver raises.
        """
        said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def run() -> None:
            async with self._slots:
                given: Any = {"problem": problem.model_dump(mode="json")}
                item: Any
                async for mode, item in self._solver.astream(given, stream_mode=["custom", "values"]):
                    if mode == "custom" or item.get("solution"):
                        said.put_nowait(item)

        solving, watching = asyncio.create_task(run()), asyncio.create_task(_gone(request))
        self._solves.add(solving)
        solving.add_done_callback(lambda _: said.put_nowait(None))
        watching.add_done_callback(lambda _: solving.cancel())
        try:
            while (item := await said.get()) is not None:
                yield item
            if solving.cancelled():
                raise Stopping
            solving.result()
        finally:
            self._solves.discard(solving)
            watching.cancel()
            solving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _BoundedBody:
    """Refuses a body larger than MOST_BODY before all of it is read, and one that is incomplete at the shutdown."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, whole = 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            try:
                message = await receive()
            except asyncio.CancelledError:
                if whole:
                    raise
                raise HTTPException(
                    503, "the server shut down before it had the whole request: send it again"
                ) from None
            whole = whole or not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > MOST_BODY:
                raise HTTPException(413, f"the body has more than {MOST_BODY} bytes: send a shorter message")
            return message

        await self._app(scope, bounded, send)


def create_app(solver: Solver, *, slots: int = 8, key: str | None = None) -> FastAPI:
    """The server as an ASGI application, which closes the solver at its end.

    `slots` is the number of concurrent solves; further requests wait. `key` is the API key that clients must send.
    """
    server = Server(solver, slots=slots, key=key)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(solver.close)

    app = FastAPI(
        title="mucode_agent",
        version=__version__,
        lifespan=lifespan,
        strict_content_type=False,
        docs_url=None,  # a page that loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.server = server
    app.add_middleware(_BoundedBody)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        server.admit(request)
        return {"object": "list", "data": [_model()]}

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        server.admit(request)
        if name != MODEL:
            raise HTTPException(404, f"no model is called {name[:80]!r} here: ask for {MODEL!r}")
        return _model()

    @app.post("/v1/chat/completions")
    async def chat(request: Request, asked: ChatRequest) -> Response:
        server.admit(request)
        problem = await asyncio.to_thread(server.problem, asked)  # seconds for a long message
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return StreamingResponse(
                _chunks(server.solve(request, problem), problem, usage), media_type="text/event-stream"
            )
        state: dict[str, Any] = {}
        async for item in server.solve(request, problem):
            state = item
        text, details = _answer_of(problem, state)
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return JSONResponse(
            {**_head("chat.completion"), "choices": [choice], "usage": _usage(details), "mucode": details}
        )

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return _error(400, _mistake(error))

    @app.exception_handler(MucodeError)
    @app.exception_handler(Stopping)
    async def failed(_: Request, error: Exception) -> Response:
        return _error(*_fault(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        lost = f"{request.method} {request.url.path} is unknown: POST /v1/chat/completions or GET /v1/models"
        theirs = {
            "Not Found": lost,
            "Method Not Allowed": lost,
            "There was an error parsing the body": "the body is no JSON that can be read: send one object in UTF-8",
        }
        return _error(error.status_code, theirs.get(str(error.detail), str(error.detail)))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return _error(500, f"the server failed ({type(error).__name__}): see its log")

    return app


async def _chunks(solve: AsyncGenerator[dict[str, Any]], problem: Problem, include_usage: bool) -> AsyncIterator[str]:
    """Server-sent events: one chunk for each of the solver's events, then the answer as one piece of content.

    The chunks of events have an empty delta, so a client that ignores them sees only the answer.
    """
    head = _head("chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return f"data: {json.dumps({**head, 'choices': [choice], **more})}\n\n"

    yield chunk({"role": "assistant", "content": ""})
    state: dict[str, Any] = {}
    try:
        async with contextlib.aclosing(solve):
            async for state in solve:
                if "event" in state:
                    yield chunk({}, mucode=state)
    except (MucodeError, Stopping) as error:
        status, message = _fault(error)
        yield f"data: {json.dumps(_problem_of(status, message))}\n\n"
        return
    text, details = _answer_of(problem, state)
    yield chunk({"content": text})
    yield chunk({}, "stop", mucode=details)
    if include_usage:
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(details)})}\n\n"
    yield "data: [DONE]\n\n"


def _answer_of(problem: Problem, state: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The answer as text, and the extension field."""
    text, response = response_of(problem, Solution.model_validate(state["solution"]))
    return text, {**response, "solution": state["solution"]}


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": MODEL}


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": 0, "owned_by": "mucode_agent"}


def _usage(details: dict[str, Any]) -> dict[str, int]:
    spent = details["solution"]["usage"]
    prompt, completion = spent["prompt_tokens"], spent["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


# --- what went wrong -----------------------------------------------------------------------------------------------


def _fault(error: Exception) -> tuple[int, str]:
    if isinstance(error, Stopping):
        return 503, "the server is shutting down: ask again when it is back"
    return 400 if isinstance(error, ProblemError) else 502, str(error)


_TYPES = {401: "authentication_error", 404: "not_found_error"}


def _problem_of(status: int, message: str) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    code = "model_not_found" if status == 404 and "no model" in message else None
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse(_problem_of(status, message), status_code=status)


def _mistake(error: RequestValidationError) -> str:
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        return f"the body is no JSON ({fault.get('ctx', {}).get('error', fault['msg'])}): send one JSON object"
    if isinstance(fault["input"], bytes):
        return "the body was not read as JSON: send it with the header Content-Type: application/json"
    where = ".".join(map(str, fault["loc"][1:])) or "the body"
    if where == "n":
        return f"n must be 1, got {fault['input']!r}: one solve gives one answer"
    if fault["type"] == "too_short":
        return f"{where} is empty: give the task in a user message"
    if fault["type"] == "missing":
        return f"{where} is missing: a request is a JSON object with model and messages"
    if where.startswith("mucode"):  # what it holds may be private tests
        return f"{where}: {fault['msg'].lower()}"
    return cause_of({**fault, "loc": fault["loc"][1:]}, "the body")
