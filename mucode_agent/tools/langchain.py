"""The sandbox as tools of an agent: `run_python` runs a script, `run_tests` judges a program on tests.

Whatever the program does is a result of the tool, also an exception, a time-out or a non-zero exit. Only a broken
sandbox is an error of the tool, and its message says that the program is not the cause.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, Field, ValidationError

from mucode_agent.calls import Call, both_forms
from mucode_agent.files import cause_of
from mucode_agent.problems import check_test
from mucode_agent.prompts import outcome
from mucode_agent.tools.sandbox import run
from mucode_agent.types import (
    ExecutionReport,
    InfrastructureError,
    Job,
    Limits,
    ProblemError,
    Record,
    Sandbox,
    Status,
    StdioTest,
)

SHOWN = 4000
"""Maximum characters of a script's output in the text for the model."""


class ScriptResult(Record):
    """The artifact of `run_python`."""

    status: Literal["ok"] | Status
    """`ok`: the script ran to its end."""
    output: str
    """The first part of standard output."""
    stderr: str = ""
    """The first part of standard error."""
    error: str = ""
    traceback: tuple[str, ...] = ()
    """The script's own frames, outermost first."""
    time_s: float
    """CPU seconds."""
    wall_s: float
    memory_mb: float
    isolation: str


class RunPythonInput(BaseModel):
    """The arguments of `run_python`."""

    code: Annotated[str, Field(description="A complete Python 3 program. Print whatever you want to see.")]
    stdin: Annotated[str, Field(description="What the program reads from standard input.")] = ""


class RunTestsInput(BaseModel):
    """The arguments of `run_tests`."""

    code: Annotated[str, Field(description="The Python 3 program under test.")]
    tests: Annotated[
        list[str | StdioTest],
        Field(
            min_length=1,
            description="Each test is Python source with asserts that call the program's functions, "
            "or an object of stdin and the stdout expected for it.",
        ),
    ]
    entry_point: Annotated[
        str | None, Field(description="The function that a test's check(candidate) is called with, if one has it.")
    ] = None


def create_run_python(sandbox: Sandbox, *, limits: Limits | None = None) -> BaseTool:
    """A tool that runs a script as `__main__`, in a fresh process that keeps nothing from earlier runs.

    Its content is text for a model, its artifact the JSON form of a ScriptResult.
    """
    bounds = limits or Limits()

    def job(code: str, stdin: str = "") -> Job:
        return Job(code=code, tests=(StdioTest(stdin=stdin, stdout=""),), limits=bounds)

    def answer(report: ExecutionReport) -> tuple[str, dict[str, Any]]:
        result = _script_result(report)
        return _as_text(result), result.model_dump(mode="json")

    return _tool(
        sandbox,
        "run_python",
        "Run a Python program in a sandbox without network or files of this machine, and get what it prints. Each run "
        f"starts afresh: nothing is kept. At most {bounds.time_s:g} s of CPU and {bounds.memory_mb} MB.",
        RunPythonInput,
        job,
        answer,
    )


def create_run_tests(sandbox: Sandbox, *, limits: Limits | None = None) -> BaseTool:
    """A tool that judges a program on tests, which run in a separate process.

    Its content is text for a model, its artifact the JSON form of an ExecutionReport.
    """
    bounds = limits or Limits()

    def job(code: str, tests: list[str | StdioTest], entry_point: str | None = None) -> Job:
        for number, test in enumerate(tests, 1):
            if isinstance(test, str):
                check_test(test, f"test {number}")
        return Job.model_validate({"code": code, "tests": tests, "entry_point": entry_point, "limits": bounds})

    def answer(report: ExecutionReport) -> tuple[str, dict[str, Any]]:
        passed = f"{report.tests_passed} of {len(report.results)} tests passed."
        return (passed if report.passed else outcome(report)), report.model_dump(mode="json")

    return _tool(
        sandbox,
        "run_tests",
        "Judge a Python program on tests in a sandbox, and get the first failing test with the expected and the actual "
        f"value. At most {bounds.time_s:g} s of CPU for each test and {bounds.memory_mb} MB.",
        RunTestsInput,
        job,
        answer,
    )


def _tool(
    sandbox: Sandbox,
    name: str,
    description: str,
    schema: type[BaseModel],
    job: Callable[..., Job],
    answer: Callable[[ExecutionReport], tuple[str, dict[str, Any]]],
) -> BaseTool:
    async def judged(*code: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        try:
            report = await Call(_run_one, _submitted, sandbox, job(*code, **arguments))
        except ProblemError as error:
            raise ToolException(f"The call cannot be used: {error}.") from error
        except InfrastructureError as error:
            raise _broken(error) from error
        if report.status == "infra":
            raise _broken(report.error)
        return answer(report)

    call, acall = both_forms(judged)
    return StructuredTool(
        name=name,
        description=description,
        args_schema=schema,
        func=call,
        coroutine=acall,
        response_format="content_and_artifact",
        handle_tool_error=True,
        handle_validation_error=_misused,
    )


def _misused(error: object) -> str:
    """What a model must fix in its call."""
    if not isinstance(error, ValidationError):
        return f"The arguments cannot be used: {error}"
    faults = error.errors(include_url=False)
    return f"The arguments cannot be used: {'; '.join(cause_of(fault, 'the arguments') for fault in faults)}."


def _run_one(sandbox: Sandbox, job: Job) -> ExecutionReport:
    return run(sandbox, [job])[0]


async def _submitted(sandbox: Sandbox, job: Job) -> ExecutionReport:
    """Cancelling kills the program. Submitting may block, so it runs in a thread."""
    submitting = asyncio.create_task(asyncio.to_thread(sandbox.submit, job))
    try:
        future = await asyncio.shield(submitting)
    except asyncio.CancelledError:
        submitting.add_done_callback(_cancel_submitted)
        raise
    return await asyncio.wrap_future(future)


def _cancel_submitted(submitting: "asyncio.Task[Future[ExecutionReport]]") -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()


def _broken(cause: object) -> ToolException:
    return ToolException(f"The sandbox failed, which says nothing about the program: {cause}")


def _script_result(report: ExecutionReport) -> ScriptResult:
    [result] = report.results
    return ScriptResult(
        status="ok" if result.status in ("passed", "wrong_answer") else result.status,
        output=report.stdout,
        stderr=report.stderr,
        error=result.error,
        traceback=result.traceback,
        time_s=report.time_s,
        wall_s=report.wall_s,
        memory_mb=report.memory_mb,
        isolation=report.isolation,
    )


def _as_text(result: ScriptResult) -> str:
    lines = [_bounded(result.output) or "(no output)"]
    if result.stderr:
        lines += ["", "standard error:", _bounded(result.stderr)]
    if result.status != "ok":
        lines += ["", f"{result.status}: {result.error}", *(f"  {frame}" for frame in result.traceback)]
    return "\n".join(lines)


def _bounded(text: str) -> str:
    text = text.rstrip("\n")
    return text if len(text) <= SHOWN else text[:SHOWN] + f"\n… {len(text) - SHOWN} more characters"
