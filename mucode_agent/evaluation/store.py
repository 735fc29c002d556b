"""The directory of a run: what was asked, and every answer as soon as it is there.

    config.json       what determines the results, and where and when they were made
    problems.jsonl    the problems as they were asked and judged
    samples.jsonl     every completion drawn, written before anything is done with it
    trace.jsonl       the rows of every finished solve (`mucode_agent.traces`), for reports and for training
    judgements.jsonl  every distinct program's verdict on all tests, private ones included
    results.json      the figures

Files ending in .jsonl only grow, each write is on disk when it returns, and half a last line is cut off at the next
start. So a killed run continues where it was. One process at a time may hold a directory.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, TypeAdapter

from mucode_agent.evaluation.benchmarks import Benchmark, Split
from mucode_agent.files import (
    Journal,
    Row,
    as_lines,
    check_same,
    check_unused,
    check_version,
    hold_directory,
    parsed,
    read_bytes,
    read_rows,
    write_whole,
)
from mucode_agent.graphs.selection import Selector
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, TraceRow
from mucode_agent.types import Candidate, Problem, ProblemError, Record, Sample, Sampling, Solution, Status

STORE_VERSION: Literal[1] = 1


ArmName = Literal["greedy", "turns", "independent"]
ARM_NAMES: tuple[ArmName, ...] = get_args(ArmName)


class Arm(Record):
    """One way to spend the compute on every problem."""

    name: ArmName
    n: int
    max_turns: int
    temperature: float
    wave: int | None = None
    """Independent samples are told apart in waves of the size that a turn has."""


class Identity(Sampling):
    """What determines the results. A directory takes results of one identity only."""

    store_version: Literal[1] = STORE_VERSION
    benchmark: str
    split: Split
    testless: bool
    problems: int
    benchmark_sha256: str
    model: str
    verifier: str
    prompt: str
    """Digest of the wording that generators see."""
    arms: tuple[Arm, ...]
    temperature: None = Field(default=None, exclude=True)
    """Each arm has its own."""
    max_tokens: int
    selector: Selector
    accept_threshold: float | None
    show_dispute: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    seed: int


class Config(Record):
    """An identity, with where and when its run was begun."""

    identity: Identity
    command: str
    started: str
    """Local time, ISO 8601."""
    isolation: str
    """The layers that hold candidate programs."""
    environment: dict[str, str]
    """Versions of Python, the platform and the packages that take part."""


class DrawnRow(Record):
    """One answered request to the generator."""

    state: str
    """Digest of the messages and sampling settings. With a sample's seed it names a draw."""
    samples: tuple[Sample, ...]
    seconds: float
    """From the request to its answer."""


class Judgement(Record):
    """The verdict of one program on all tests of its problem. Never seen by a solver."""

    problem_id: str
    program: str
    """`selection.normal_form` of the code."""
    status: Status
    tests_passed: int
    tests: int
    error: str

    @property
    def correct(self) -> bool:
        return self.status == "passed"

    @property
    def judged(self) -> bool:
        """Whether the program's rightness is known: neither the sandbox nor the test failed."""
        return self.status not in ("infra", "unjudged")


class Solve(Record):
    """One finished solve, as its trace tells it."""

    run_id: str
    problem_id: str
    settings: dict[str, Any]
    candidates: tuple[Candidate, ...]
    """In the order drawn."""
    decisions: tuple[DecisionRow, ...]

    @property
    def solution(self) -> Solution:
        solution = self.decisions[-1].solution
        if solution is None:
            raise ValueError(f"the solve {self.run_id} has no solution: it is not finished")
        return solution


_SAMPLES = TypeAdapter(DrawnRow)
_JUDGEMENTS = TypeAdapter(Judgement)
_TRACE: TypeAdapter[TraceRow] = TypeAdapter(TraceRow)
_PROBLEMS = TypeAdapter(Problem)


class Store:
    """An open run directory. Use `open_store`."""

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory, self.config = directory, config
        with contextlib.ExitStack() as opened:
            self.samples = opened.enter_context(contextlib.closing(Journal(directory / "samples.jsonl", _SAMPLES)))
            trace: Journal[Any] = Journal(directory / "trace.jsonl", _TRACE)
            self.trace = opened.enter_context(contextlib.closing(trace))
            judgements = Journal(directory / "judgements.jsonl", _JUDGEMENTS)
            self.judgements = opened.enter_context(contextlib.closing(judgements))
            self._opened = opened.pop_all()

    def judged(self) -> dict[tuple[str, str], Judgement]:
        return {(row.problem_id, row.program): row for row in self.judgements.rows}

    def solves(self) -> list[Solve]:
        return finished_solves(self.trace.rows)

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def open_store(directory: Path, config: Config, benchmark: Benchmark) -> Iterator[Store]:
    """The directory, locked for this process: begun if it is new, gone on with if it holds the same identity.

    Raises ProblemError where another process holds it, where it holds results of another identity (the message says
    what differs), or where it is no run directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProblemError(f"cannot make {directory}: {error.strerror}; give another directory") from None
    with hold_directory(directory):
        if (directory / "config.json").exists():
            held = read_config(directory)
            check_same(held.identity.model_dump(mode="json"), config.identity.model_dump(mode="json"), directory)
            config = held
        else:
            check_unused(directory)
            write_whole(directory / "problems.jsonl", as_lines(benchmark.problems))
            write_whole(directory / "config.json", config.model_dump_json(indent=2) + "\n")
        with Store(directory, config) as store:
            yield store


def read_config(directory: Path) -> Config:
    """Raises ProblemError where the directory holds no run, or one that another version made."""
    return read_identified(directory, TypeAdapter(Config), "store_version", STORE_VERSION, "evaluate run")


def read_identified(directory: Path, form: TypeAdapter[Row], field: str, version: int, command: str) -> Row:
    """The config.json that `command` wrote; `field` of its identity is its version. Raises ProblemError."""
    path = directory / "config.json"
    data = read_bytes(path, f"{directory} is no run directory")
    try:
        identity = json.loads(data)["identity"]
        known = field in identity
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ProblemError(f"{path} is no configuration of a run; give the directory that `{command}` wrote")
    check_version(path, json.dumps(identity).encode(), field, version)
    return parsed(form, data, str(path))


def read_problems(directory: Path) -> list[Problem]:
    """Raises ProblemError where the file is damaged, or holds fewer than the run was begun with."""
    path = directory / "problems.jsonl"
    problems = list(_rows(path, _PROBLEMS))
    try:
        asked = json.loads((directory / "config.json").read_bytes())["identity"]["problems"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        asked = len(problems)
    if len(problems) != asked:
        raise ProblemError(
            f"{path} holds {len(problems)} whole rows of {asked}; remove it and run the command that began the "
            "directory again"
        )
    return problems


def read_solves(directory: Path) -> list[Solve]:
    """Finished solves of a run, which may still be going on. Raises ProblemError."""
    return finished_solves(list(_rows(directory / "trace.jsonl", _TRACE)))


def read_judgements(directory: Path) -> dict[tuple[str, str], Judgement]:
    return {(row.problem_id, row.program): row for row in _rows(directory / "judgements.jsonl", _JUDGEMENTS)}


def finished_solves(rows: Sequence[TraceRow]) -> list[Solve]:
    """One per run id that came to a solution; the first telling counts."""
    problems: dict[str, ProblemRow] = {}
    candidates: dict[str, dict[tuple[int, int], Candidate]] = {}
    decisions: dict[str, list[DecisionRow]] = {}
    for row in rows:
        match row:
            case ProblemRow():
                problems.setdefault(row.run_id, row)
            case CandidateRow():
                key = (row.candidate.turn, row.candidate.index)
                candidates.setdefault(row.run_id, {}).setdefault(key, row.candidate)
            case DecisionRow():
                told = decisions.setdefault(row.run_id, [])
                if not told or told[-1].solution is None:
                    told.append(row)
    return [
        Solve(
            run_id=run_id,
            problem_id=row.problem.id,
            settings=row.settings,
            candidates=tuple(candidates[run_id].values()),
            decisions=tuple(decisions[run_id]),
        )
        for run_id, row in problems.items()
        if run_id in decisions and decisions[run_id][-1].solution is not None
    ]


def _rows(path: Path, form: TypeAdapter[Row]) -> Iterator[Row]:
    return read_rows(path, form, needed_for=f"{path.parent} is no whole run")
