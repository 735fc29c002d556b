"""The solver and the sandbox as tools of an MCP server: `solve_coding_problem`, `run_python`, `run_tests`.

Each answers with text for a model and with structured content of a declared schema. A solve reports its progress, and
a call that is cancelled ends its programs. Works with `mcp` 1.30 and with 2.x, which renamed its server.
"""

import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from langchain_core.tools import BaseTool
from pydantic import BaseModel

from mucode_agent.adapters import apart
from mucode_agent.graphs.embed import DESCRIPTION, CodingTask, response_of
from mucode_agent.graphs.settings import Settings
from mucode_agent.graphs.solver import Solver, SolverInput
from mucode_agent.problems import read_problem
from mucode_agent.tools.langchain import ScriptResult, create_run_python, create_run_tests
from mucode_agent.types import ExecutionReport, MucodeError, Record, Solution, StopReason

try:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import CallToolResult

    VERSION_2 = True
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.server.fastmcp.exceptions import ToolError
    from mcp.types import CallToolResult

    VERSION_2 = False

INSTRUCTIONS = (
    "Give a whole programming task with its tests to solve_coding_problem. run_python and run_tests run programs in a "
    "sandbox without network or files of this machine; nothing is kept between calls."
)


class SolveAnswer(Record):
    """The structured content of `solve_coding_problem`."""

    solved: bool
    code: str
    verdict: str
    stop_reason: StopReason
    turns: int
    understood: str


Answer = tuple[str, dict[str, Any]]
"""Text for a model, and structured content."""


def create_server(solver: Solver, settings: Settings | None = None, *, host: str = "127.0.0.1") -> Any:
    """The server, not yet running. `settings` are the solver's; they give the total of a progress report.

    `host` is where it will listen: on loopback it refuses requests that name another host (DNS rebinding).
    """
    most = (settings or Settings()).n * (settings or Settings()).max_turns
    given: dict[str, Any] = {} if VERSION_2 else {"host": host}
    server = MCPServer("mucode_agent", instructions=INSTRUCTIONS, log_level="WARNING", **given)

    async def solve(context: Any, **task: Any) -> Answer:
        public = {**task, "public_tests": task["tests"]}
        problem = read_problem({name: public[name] for name in ("prompt", "public_tests", "entry_point", "setup")})
        run: SolverInput = {"problem": problem.model_dump(mode="json")}
        state: dict[str, Any] = {}
        done = 0
        mode: str
        item: Any
        async for mode, item in solver.astream(run, stream_mode=["custom", "values"]):
            if mode == "values":
                state = item
            elif item["event"] == "mucode.candidate_executed":
                done += 1
                line = f"turn {item['turn']}: {item['status']}, {item['tests_passed']} of {item['tests']} tests pass"
                await context.report_progress(done, max(done, most), line)
        return response_of(problem, Solution.model_validate(state["solution"]))

    _add(server, "solve_coding_problem", DESCRIPTION, CodingTask, SolveAnswer, solve)
    sandbox = solver.parts.sandbox()
    for tool, output in ((create_run_python(sandbox), ScriptResult), (create_run_tests(sandbox), ExecutionReport)):
        schema: Any = tool.args_schema
        _add(server, tool.name, tool.description, schema, output, _calling(tool))
    return server


def http_app(server: Any, host: str) -> Any:
    """The server as an ASGI application that speaks streamable HTTP at `/mcp`."""
    return server.streamable_http_app(**({"host": host} if VERSION_2 else {}))


def _calling(tool: BaseTool) -> Callable[..., Coroutine[Any, Any, Answer]]:
    async def call(context: Any, **arguments: Any) -> Answer:
        del context
        answer = await tool.ainvoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})
        if answer.status == "error":
            raise ToolError(answer.text)
        return answer.text, answer.artifact

    return call


def _add(
    server: Any,
    name: str,
    description: str,
    arguments: type[BaseModel],
    output: type[BaseModel],
    call: Callable[..., Coroutine[Any, Any, Answer]],
) -> None:
    """Registers a tool with the fields of `arguments` as its arguments; the server reads them from a signature."""

    async def tool(context: Any, **given: Any) -> Any:
        try:
            text, content = await apart(call(context, **given))
        except MucodeError as error:
            raise ToolError(str(error)) from error
        said = {"content": [{"type": "text", "text": text}], "structuredContent": content}
        return CallToolResult.model_validate(said)

    declared: dict[str, Any] = {
        field: Annotated[info.annotation, info] for field, info in arguments.model_fields.items()
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=Context)]
    for field, info in arguments.model_fields.items():
        default = inspect.Parameter.empty if info.is_required() else info.get_default()
        parameters.append(inspect.Parameter(field, keyword, annotation=declared[field], default=default))
    returned: Any = Annotated[CallToolResult, output]
    tool.__annotations__ = {"context": Context, **declared, "return": returned}
    tool.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    server.add_tool(tool, name=name, description=description)
