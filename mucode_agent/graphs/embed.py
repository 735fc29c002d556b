"""The solver inside another agent: as a node of a graph, as a tool, and as a sub-agent of deepagents."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, TypedDict, Unpack

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import CachePolicy, RetryPolicy
from pydantic import BaseModel, Field

from mucode_agent.calls import Call, both_forms
from mucode_agent.graphs.parts import Generator, OwningGraph
from mucode_agent.graphs.settings import Options
from mucode_agent.graphs.solver import Solver, SolverInput, create_solver
from mucode_agent.problems import read_problem
from mucode_agent.prompts import outcome
from mucode_agent.prose import problem_in
from mucode_agent.traces import TraceSink
from mucode_agent.types import CodeTest, Problem, ProblemError, Sandbox, Solution, StdioTest, Verifier
from mucode_agent.verifiers import DEFAULT

DESCRIPTION = (
    "Writes a Python function or program for a task, runs it on the tests, and corrects it until they pass. "
    "Give the whole task and its tests. Answers with the code and with what still fails, if anything does."
)

# --- as a node -----------------------------------------------------------------------------------------------------


class NodeOptions(TypedDict, total=False):
    """The other arguments of `StateGraph.add_node`."""

    defer: bool
    metadata: dict[str, Any] | None
    retry_policy: RetryPolicy | Sequence[RetryPolicy] | None
    cache_policy: CachePolicy[Any] | None
    error_handler: Any
    destinations: dict[str, str] | tuple[str, ...] | None
    timeout: float | timedelta | None
    """LangGraph runs a graph with such a node by `ainvoke` only."""


def add_solver(
    graph: StateGraph[Any, Any, Any, Any],
    solver: Solver,
    *,
    node: str = "solve",
    problem: str = "problem",
    solution: str = "solution",
    **options: Unpack[NodeOptions],
) -> None:
    """Adds `solver` to a parent graph as a node that reads the parent's key `problem` and writes its key `solution`.

    `options` are those of LangGraph's `add_node`: `retry_policy=RetryPolicy()` retries a failed model or sandbox.

    `graph.add_node(node, solver)` does the same if both keys have these names, but LangGraph silently drops the answer
    if the parent has no such key. Raises ProblemError naming a key that the parent lacks.
    """
    for key in (problem, solution):
        if key not in graph.channels:
            raise ProblemError(
                f"the parent's state has no key {key!r}, only {', '.join(graph.channels)}; "
                "add it to the state, or name another key in problem= or solution="
            )

    def given(state: Any) -> SolverInput:
        held = state.get(problem) if isinstance(state, Mapping) else getattr(state, problem, None)
        return {"problem": held or {}}

    async def run(state: Any, config: RunnableConfig) -> dict[str, Any]:
        ended = await Call(solver.invoke, solver.ainvoke, given(state), config)
        return {solution: ended["solution"]}

    graph.add_node(node, RunnableLambda(*both_forms(run), name=node), **options)


# --- as a tool -----------------------------------------------------------------------------------------------------


class CodingTask(BaseModel):
    """A programming task with its tests."""

    prompt: Annotated[str, Field(min_length=1, description="What to write: words, a signature, or both.")]
    tests: Annotated[
        list[str | StdioTest],
        Field(
            description="Python asserts on the function to write, such as `assert add(1, 2) == 3`, or, for a program, "
            "objects of stdin and the stdout expected for it."
        ),
    ] = []
    entry_point: Annotated[
        str | None, Field(description="Name of the function to write; may be left out where tests call it.")
    ] = None
    setup: Annotated[str, Field(description="Code that is run before the answer: imports and helpers.")] = ""


def create_solver_tool(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    name: str = "solve_coding_problem",
    description: str = DESCRIPTION,
    request_timeout: float | None = None,
    **settings: Unpack[Options],
) -> BaseTool:
    """The solver as a LangChain tool, sync and async; the arguments are those of `create_solver`.

    The content is the verdict in one sentence and the code; the artifact is the whole `Solution` in JSON form. An
    unusable task is reported to the calling model; a broken model, sandbox or verifier raises InfrastructureError.
    """
    solver = create_solver(
        model,
        sandbox=sandbox,
        verifier=verifier,
        trace=trace,
        request_timeout=request_timeout,
        name=name,
        **settings,
    )

    def given(
        prompt: str, tests: Sequence[str | StdioTest] = (), entry_point: str | None = None, setup: str = ""
    ) -> SolverInput:
        task = {"prompt": prompt, "public_tests": list(tests), "entry_point": entry_point, "setup": setup}
        try:
            return {"problem": read_problem(task).model_dump(mode="json")}
        except ProblemError as error:
            raise ToolException(f"The task cannot be used: {error}.") from None

    async def run(*prompt: str, config: RunnableConfig, **task: Any) -> tuple[str, dict[str, Any]]:
        asked = given(*prompt, **task)
        solution = (await Call(solver.invoke, solver.ainvoke, asked, config))["solution"]
        text, _ = response_of(Problem.model_validate(asked["problem"]), Solution.model_validate(solution))
        return text, dict(solution)

    solve, asolve = both_forms(run)
    return StructuredTool.from_function(
        func=solve,
        coroutine=asolve,
        name=name,
        description=description,
        args_schema=CodingTask,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def verdict(solution: Solution) -> str:
    """The result of a solve in words: passed or not, and what still fails."""
    report, score = solution.best.report, solution.best.score
    chance = f" P(correct) is {score.probability:.2f}." if score and score.probability is not None else ""
    if solution.solved:
        passes = "The code passes all tests." if report and report.passed else "The code was accepted without tests."
        return passes + chance
    return f"Not solved ({solution.stop_reason}): this is the best attempt. {outcome(report)}{chance}"


def understood(problem: Problem) -> str:
    """The task as it was understood: the function or program, and its tests."""
    asked = f"The function `{problem.entry_point}`" if problem.entry_point else "A program on standard input"
    if not problem.public_tests:
        return f"{asked} was asked for, without tests: nothing has checked the code."
    texts = [
        test.code if isinstance(test, CodeTest) else f"{test.stdin!r} -> {test.stdout!r}"
        for test in problem.public_tests
    ]
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return f"{asked} was asked for, with {len(texts)} tests: {'; '.join(texts[:3])}{more}."


# --- as a sub-agent ------------------------------------------------------------------------------------------------


class SubAgent(TypedDict):
    """The shape of deepagents' `CompiledSubAgent`."""

    name: str
    description: str
    runnable: Runnable[Any, Any]


class SubAgentInput(TypedDict, total=False):
    """The sub-agent's input."""

    messages: Annotated[list[AnyMessage], add_messages]
    problem: dict[str, Any] | None
    """A problem in JSON form; without it, the last human message is the task."""


class SubAgentOutput(TypedDict):
    """The sub-agent's output."""

    messages: Annotated[list[AnyMessage], add_messages]
    """The answer as text."""
    structured_response: dict[str, Any] | None
    """The answer as fields: solved, code, verdict, stop_reason, turns, understood. None if there was no task."""


class _SubAgentState(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    problem: dict[str, Any] | None
    solution: dict[str, Any]
    structured_response: dict[str, Any] | None


def create_solver_subagent(
    model: str | Generator,
    *,
    sandbox: str | Sandbox = "local",
    verifier: str | Verifier = DEFAULT,
    trace: TraceSink | None = None,
    name: str = "coder",
    description: str = DESCRIPTION,
    request_timeout: float | None = None,
    **settings: Unpack[Options],
) -> SubAgent:
    """The solver as a sub-agent for `create_deep_agent(subagents=[…])`; the arguments are those of `create_solver`."""
    solver = create_solver(
        model, sandbox=sandbox, verifier=verifier, trace=trace, request_timeout=request_timeout, **settings
    )
    graph = StateGraph(_SubAgentState, input_schema=SubAgentInput, output_schema=SubAgentOutput)
    graph.add_node("read", _read)
    graph.add_node("solve", solver)
    graph.add_node("answer", _answer)
    graph.add_edge(START, "read")
    graph.add_conditional_edges("read", _was_read, {"solve": "solve", "end": END})
    graph.add_edge("solve", "answer")
    graph.add_edge("answer", END)
    runnable = OwningGraph.of(graph.compile(name=name), solver.parts)
    return {"name": name, "description": description, "runnable": runnable}


def _read(state: _SubAgentState) -> dict[str, Any]:
    try:
        problem = task_in(state.get("messages", []), state.get("problem"))
    except ProblemError as error:
        answer = AIMessage(f"The task cannot be used: {error}.")
        return {"structured_response": None, "problem": None, "messages": [answer]}
    return {"structured_response": None, "problem": problem.model_dump(mode="json")}


def task_in(messages: Sequence[BaseMessage], problem: Mapping[str, Any] | None = None) -> Problem:
    """The given problem, else the one in the last human message. Raises ProblemError."""
    if isinstance(problem, Mapping) and problem:
        return read_problem(problem)
    said = [message for message in messages if isinstance(message, HumanMessage)]
    if not said:
        raise ProblemError("there is no human message; give the task in one, or a problem")
    return problem_in(str(said[-1].text))


def _was_read(state: _SubAgentState) -> Literal["solve", "end"]:
    return "solve" if state.get("problem") else "end"


def _answer(state: _SubAgentState) -> dict[str, Any]:
    problem, solution = Problem.model_validate(state["problem"]), Solution.model_validate(state["solution"])
    text, response = response_of(problem, solution)
    return {"messages": [AIMessage(text)], "structured_response": response}


def response_of(problem: Problem, solution: Solution) -> tuple[str, dict[str, Any]]:
    """The answer as text, and as fields: solved, code, verdict, stop_reason, turns, understood."""
    response = {
        "solved": solution.solved,
        "code": solution.code,
        "verdict": verdict(solution),
        "stop_reason": solution.stop_reason,
        "turns": solution.turns,
        "understood": understood(problem),
    }
    return f"{response['verdict']} {response['understood']}\n\n```python\n{solution.code}\n```", response
