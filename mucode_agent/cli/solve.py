"""`python -m mucode_agent solve`: the program goes to standard output, progress to standard error."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mucode_agent.cli.evaluate import ModelSpec, RequestTimeout, VerifierSpec
from mucode_agent.cli.options import RUNNING, SAMPLING, Fields, command
from mucode_agent.cli.output import NOT_SOLVED, SOLVED, UNJUDGED, write_bytes
from mucode_agent.console import messages
from mucode_agent.files import replacing
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.models.embedded import DEFAULT_MODEL
from mucode_agent.runs.running import Running
from mucode_agent.types import (
    ExecutionReport,
    InfrastructureError,
    Problem,
    ProblemError,
    Record,
    Solution,
)
from mucode_agent.verifiers import DEFAULT

if TYPE_CHECKING:
    from mucode_agent.graphs.solver import Solver, SolverInput


SEARCH = Fields(
    "n",
    "max_turns",
    "wave",
    "selector",
    "accept_threshold",
    "least_gain",
    "trust_calibration",
    *SAMPLING,
    "seed",
)


class SolveOutput(Record):
    """What `solve --json` prints."""

    schema_version: Literal[1] = 1
    solved: bool
    """The answer passes the private tests; without private tests, the solver accepted it."""
    code: str
    solution: Solution
    judgement: ExecutionReport | None
    """The answer's report on all tests, made after the solve; None without private tests."""

    @property
    def unjudged(self) -> bool:
        """The solver accepted the answer, but the private tests cannot judge it."""
        return self.solution.solved and self.judgement is not None and self.judgement.status == "unjudged"


@command
def solve(
    problem: Annotated[
        str, typer.Argument(help="A problem.json (ours, or a row of HumanEval(+) or MBPP(+)), or - for standard input.")
    ],
    search: Annotated[StatedSettings, SEARCH],
    running: Annotated[Running, RUNNING],
    model: ModelSpec = DEFAULT_MODEL,
    verifier: VerifierSpec = DEFAULT,
    request_timeout: RequestTimeout = None,
    trace: Annotated[Path | None, typer.Option(help="Append every candidate and decision to this JSONL file.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the result to this file instead of standard output.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the code.")] = False,
) -> None:
    """Solve one problem: print the program, or the best candidate and what still fails."""
    from mucode_agent.evaluation.check import sound_examples
    from mucode_agent.graphs.solver import create_solver
    from mucode_agent.problems import load_problem
    from mucode_agent.tools.sandbox import run
    from mucode_agent.traces import JsonlTrace
    from mucode_agent.verifiers import load_verifier
    from mucode_agent.verifiers.card import calibration_mismatch

    task = running.problem(load_problem(problem))
    scorer = load_verifier(verifier)
    if not task.public_tests and not task.private_tests and scorer.calibrated_on is None:
        raise ProblemError(
            f"{problem} has no tests and the verifier {scorer.name!r} gives no probability, so nothing could judge an "
            "answer; add public_tests, or use --verifier evidence"
        )
    _check_paths(problem, output, trace)
    with contextlib.closing(running.open([task])) as place:
        (task,) = sound_examples([task], place)
        solver = create_solver(
            model,
            sandbox=place,
            trace=JsonlTrace(trace) if trace else None,
            request_timeout=request_timeout,
            verifier=scorer,
            **search.options(),
        )
        with _progress() as show:
            solution = asyncio.run(_watched(solver, task, show))
        judgement = run(place, [task.judge_job(solution.code)])[0] if task.private_tests else None
    if judgement is not None and judgement.status == "infra":
        raise InfrastructureError(
            f"the answer could not be judged: {judgement.error}; see `python -m mucode_agent doctor`"
        )
    result = SolveOutput(
        solved=judgement.passed if judgement else solution.solved,
        code=solution.code,
        solution=solution,
        judgement=judgement,
    )
    text = result.model_dump_json(indent=2) if as_json else result.code
    write_text(text.rstrip("\n") + "\n", output)
    mismatch = calibration_mismatch(scorer, model)
    own = scorer.accept_threshold if mismatch is None or search.trust_calibration else None
    needed = None if task.public_tests else search.accept_threshold if search.accept_threshold is not None else own
    _report(result, scorer.name, mismatch, needed)
    raise typer.Exit(SOLVED if result.solved else UNJUDGED if result.unjudged else NOT_SOLVED)


async def _watched(solver: "Solver", problem: Problem, show: Callable[[str], None]) -> Solution:
    """Runs the solver and shows its events. Async, because an interruption then ends a node at once."""
    state: dict[str, Any] = {}
    line = Line()
    mode: str
    item: Any
    given: SolverInput = {"problem": problem.model_dump(mode="json")}
    async for mode, item in solver.astream(given, stream_mode=["custom", "values"]):
        if mode == "values":
            state = item
        else:
            show(line.after(item))
    return Solution.model_validate(state["solution"])


class Line:
    """The progress line: the turn, the candidates drawn, the tests passed."""

    def __init__(self) -> None:
        self._turn = self._drawn = self._run = 0
        self._best = ""

    def after(self, event: dict[str, Any]) -> str:
        match event["event"]:
            case "mucode.turn_started" | "mucode.wave_started":
                self._turn, self._drawn = event["turn"], self._drawn + event["candidates"]
            case "mucode.candidate_executed":
                self._run += 1
                self._best = f" · {event['tests_passed']}/{event['tests']} tests"
        return f"turn {self._turn} · {self._run}/{self._drawn} candidates run{self._best}"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on standard error that is rewritten, with the time since the start; nothing if that is no terminal."""
    console = messages()
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as line:
        task = line.add_task("loading the model", total=None)
        yield lambda text: line.update(task, description=text)


def _report(result: SolveOutput, verifier: str, mismatch: str | None, needed: float | None) -> None:
    """Prints the result: always if something still fails, else only on a terminal.

    `needed` is the least P(correct) of an accepted answer without public tests.
    """
    from mucode_agent.prompts import outcome

    console = messages()
    solution = result.solution
    if result.unjudged and result.judgement is not None:
        failure = result.judgement.first_failure
        cause = (failure.error if failure else "") or result.judgement.error
        console.print(
            f"accepted, but the private tests cannot judge the answer: {cause.rstrip('.')}; correct the tests, "
            "--preload what they import, or give --judge together where they need the program's own process",
            markup=False,
        )
    elif not result.solved:
        report = result.judgement if solution.solved and result.judgement else solution.best.report
        console.print(f"not solved ({solution.stop_reason}); what still fails:", markup=False)
        console.print(outcome(report) + _below(solution, needed), markup=False)
    if not result.solved or console.is_terminal:
        usage = solution.usage
        word = "solved" if result.solved else "accepted" if result.unjudged else "best candidate"
        console.print(
            f"{word} in turn {solution.best.turn} of {solution.turns}"
            f" · {solution.best.report.tests_passed if solution.best.report else 0} of "
            f"{len(solution.best.report.results) if solution.best.report else 0} public tests pass"
            f"{_probability(solution, verifier, mismatch)}"
            f" · {usage.candidates} candidates · {usage.completion_tokens} tokens · {usage.seconds:.1f} s",
            markup=False,
        )


def _below(solution: Solution, needed: float | None) -> str:
    score = solution.best.score
    if needed is None or score is None or score.probability is None or score.probability >= needed:
        return ""
    best = f"the best candidate has {score.probability:.2f}"
    return f" An answer without public tests needs P(correct) {needed:.2f}; {best}."


def _probability(solution: Solution, verifier: str, mismatch: str | None) -> str:
    score = solution.best.score
    if score is None or score.probability is None:
        return ""
    return f" · P(correct) {score.probability:.2f} by {verifier}{', calibrated on another model' if mismatch else ''}"


# --- writing -------------------------------------------------------------------------------------------------------


def _check_paths(problem: str, output: Path | None, trace: Path | None) -> None:
    """Checks, before the solve, that the output can be written and that no file is given for two purposes."""
    named = [("the problem", Path(problem)), ("--output", output), ("--trace", trace)]
    files = [(name, path.resolve()) for name, path in named if path is not None and path.is_file()]
    for (name, path), (other, same) in itertools.combinations(files, 2):
        if path == same:
            raise ProblemError(f"{name} and {other} are the same file {path}; give them different paths")
    if output is None:
        return
    place = output.resolve()
    can_write = os.access(place, os.W_OK) if place.exists() else os.access(place.parent, os.W_OK)
    if place.is_dir() or not place.parent.is_dir() or not can_write:
        raise ProblemError(f"cannot write {output}: its directory must exist and be writable")


def write_text(text: str, path: Path | None) -> None:
    """Writes UTF-8 to standard output or a file. A regular file is replaced atomically, another is written to."""
    if path is None:
        write_bytes(text.encode("utf-8", "backslashreplace"))
        return
    try:
        _write(path.resolve(), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replacing(path) as file:
        file.write(data)
