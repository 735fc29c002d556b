"""The tools that an agent gets: what the program does is a result, only a broken sandbox is an error."""

import asyncio
import os
from typing import Any

import pytest
from fakes import BrokenSandbox
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_tests.unit_tests import ToolsUnitTests
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from processes import busy_programs
from waiting import auntil

from mucode_agent.tools.langchain import ScriptResult, create_run_python, create_run_tests
from mucode_agent.types import ExecutionReport, InfrastructureError, Job, Limits, Sandbox

ADD = "def add(a, b):\n    return a + b"


@pytest.fixture
def run_python(sandbox: Sandbox) -> BaseTool:
    return create_run_python(sandbox)


@pytest.fixture
def run_tests(sandbox: Sandbox) -> BaseTool:
    return create_run_tests(sandbox)


def called(tool: BaseTool, **arguments: Any) -> ToolMessage:
    message = tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    return message


class TestRunPython(ToolsUnitTests):
    @property
    def tool_constructor(self) -> BaseTool:
        return create_run_python(BrokenSandbox())

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"code": "print(input())", "stdin": "hello"}


class TestRunTests(ToolsUnitTests):
    @property
    def tool_constructor(self) -> BaseTool:
        return create_run_tests(BrokenSandbox())

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"code": ADD, "tests": ["assert add(1, 2) == 3"], "entry_point": "add"}


# --- run_python


def test_a_script_runs_as_main_and_prints(run_python: BaseTool) -> None:
    message = called(run_python, code="if __name__ == '__main__':\n    print(input()[::-1])", stdin="olleh\n")

    assert (message.content, message.status) == ("hello", "success")
    assert ScriptResult.model_validate(message.artifact).status == "ok"


def test_a_bare_program_is_a_call(run_python: BaseTool) -> None:
    assert run_python.invoke("print(6 * 7)") == "42"


def test_standard_error_is_shown(run_python: BaseTool) -> None:
    assert "careful" in called(run_python, code="import sys\nprint('careful', file=sys.stderr)").content


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("print('before')\nraise ValueError('no')", "exception", "ValueError: no"),
        ("def f(:", "syntax_error", "SyntaxError"),
        ("import sys\nprint('before')\nsys.exit(3)", "early_exit", "exit code 3"),
        ("while True: pass", "timeout", "CPU time"),
        ("x = [0] * 10**10", "memory", "MB"),
    ],
)
def test_a_failure_of_the_program_is_a_result(sandbox: Sandbox, code: str, status: str, words: str) -> None:
    message = called(create_run_python(sandbox, limits=Limits(time_s=1)), code=code)

    assert message.status == "success"
    assert message.artifact["status"] == status
    assert words in message.content
    assert ("before" in code) == ("before" in message.content)


def test_an_exception_shows_the_programs_own_lines(run_python: BaseTool) -> None:
    assert "line 2, in f: return 1 / 0" in called(run_python, code="def f():\n    return 1 / 0\nf()").content


def test_a_silent_script_says_so(run_python: BaseTool) -> None:
    assert called(run_python, code="pass").content == "(no output)"


def test_standard_error_stands_apart(run_python: BaseTool) -> None:
    message = called(run_python, code="import sys\nprint('out')\nprint('err', file=sys.stderr)")

    assert message.content == "out\n\nstandard error:\nerr"
    assert (message.artifact["output"], message.artifact["stderr"]) == ("out\n", "err\n")


def test_output_is_bounded(run_python: BaseTool) -> None:
    assert len(called(run_python, code="print('x' * 100_000)").content) < 5000


def test_nothing_is_kept_between_runs(run_python: BaseTool) -> None:
    called(run_python, code="import builtins\nbuiltins.kept = 1\nopen('kept', 'w').write('1')")

    seen = called(run_python, code="import builtins, os\nprint(hasattr(builtins, 'kept'), os.path.exists('kept'))")

    assert seen.content == "False False"


# --- run_tests


def test_a_right_program_passes(run_tests: BaseTool) -> None:
    message = called(run_tests, code=ADD, tests=["assert add(1, 2) == 3", "assert add(0, 0) == 0"])

    assert message.content == "2 of 2 tests passed."
    assert ExecutionReport.model_validate(message.artifact).passed


def test_a_failing_test_is_shown_with_both_values(run_tests: BaseTool) -> None:
    message = called(run_tests, code=ADD, tests=["assert add(1, 2) == 4"])

    assert message.status == "success"
    assert "Expected: 4" in message.content
    assert "Actual: 3" in message.content


def test_programs_on_standard_input_and_checks_are_judged(run_tests: BaseTool) -> None:
    assert (
        called(run_tests, code="print(input())", tests=[{"stdin": "a", "stdout": "a"}]).artifact["status"] == "passed"
    )
    check = "def check(candidate):\n    assert candidate(1, 2) == 3"
    assert called(run_tests, code=ADD, tests=[check], entry_point="add").artifact["status"] == "passed"


def test_an_early_exit_or_a_test_that_tests_nothing_is_no_pass(run_tests: BaseTool) -> None:
    assert (
        called(run_tests, code="import sys\nsys.exit(0)", tests=["assert add(1, 2) == 3"]).artifact["status"]
        != "passed"
    )
    assert called(run_tests, code=ADD, tests=["assert 1 + 1 == 2"]).artifact["status"] == "unjudged"


@pytest.mark.parametrize(
    ("test", "words"), [("print(add(1, 2))", "test 2 asserts nothing"), ("assert (", "test 2 does not parse")]
)
def test_a_model_is_told_which_of_its_tests_judges_nothing(run_tests: BaseTool, test: str, words: str) -> None:
    message = called(run_tests, code=ADD, tests=["assert add(1, 2) == 3", test])
    assert (message.status, words in str(message.content)) == ("error", True)


def test_a_call_without_tests_tells_the_model_what_is_wrong(run_tests: BaseTool) -> None:
    message = called(run_tests, code=ADD, tests=[])

    assert message.status == "error"


# --- the sandbox


@pytest.mark.parametrize("create", [create_run_python, create_run_tests])
def test_a_broken_sandbox_is_an_error_that_absolves_the_program(create: Any) -> None:
    message = called(create(BrokenSandbox()), code="pass", tests=["assert f()"])

    assert message.status == "error"
    assert "says nothing about the program: the worker could not start" in message.content


def test_a_sandbox_that_does_not_start_is_an_error_too() -> None:
    class Unstartable(BrokenSandbox):
        def submit(self, job: Job) -> Any:
            raise InfrastructureError("no namespaces")

    assert "no namespaces" in called(create_run_python(Unstartable()), code="pass").content


async def test_the_tools_are_asynchronous(run_python: BaseTool, run_tests: BaseTool) -> None:
    printed, judged = await asyncio.gather(
        run_python.ainvoke({"code": "print(1)"}), run_tests.ainvoke({"code": ADD, "tests": ["assert add(1, 2) == 3"]})
    )

    assert (printed, judged) == ("1", "1 of 1 tests passed.")


async def test_cancelling_a_call_kills_its_program(sandbox: Sandbox) -> None:
    tool = create_run_python(sandbox, limits=Limits(time_s=3600))
    task = asyncio.create_task(tool.ainvoke({"code": "while True: pass"}))
    await auntil(lambda: busy_programs(os.getpid()))

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await create_run_python(sandbox).ainvoke({"code": "print('free')"}) == "free"  # there is one worker


def test_a_tool_node_of_langgraph_calls_them(run_python: BaseTool, run_tests: BaseTool) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([run_python, run_tests]))
    graph.add_edge(START, "tools")
    graph.add_edge("tools", END)
    calls = [
        {"name": "run_python", "args": {"code": "print(2)"}, "id": "1"},
        {"name": "run_tests", "args": {"code": ADD, "tests": ["assert add(1, 1) == 3"]}, "id": "2"},
    ]

    state = graph.compile().invoke({"messages": [AIMessage("", tool_calls=calls)]})

    assert [message.artifact["status"] for message in state["messages"][1:]] == ["ok", "wrong_answer"]
