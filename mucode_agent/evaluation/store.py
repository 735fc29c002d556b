"""The directory of a run: what was asked, and every answer as soon as it is there.

    config.json       what determines the results, and where and when they were made
    problems.jsonl    the problems as they were asked and judged
    samples.jsonl     every completion drawn, written before anything is done with it
    trace.jsonl       the rows of every finished solve (`mucode_agent.traces`), for reports and for training
    judgements.jsonl  every distinct program's verdict on all tests, private ones included
    results.json      the figures

Files ending in .jsonl only grow, each write is on disk when it returns, and half a last line is cut off at the next
start. So a run that was killed goes on where it stood. One process at a time may hold a directory.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError

from mucode_agent.evaluation.benchmarks import Benchmark, Split
from mucode_agent.graphs.selection import Selector
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, TraceRow
from mucode_agent.types import (
    Candidate,
    InfrastructureError,
    Problem,
    ProblemError,
    Record,
    Sample,
    Sampling,
    Solution,
    Status,
)

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


Row = TypeVar("Row", bound=Record)


class DiskError(InfrastructureError):
    """What is drawn now could not be kept: no run goes on."""


class Journal(Generic[Row]):
    """Rows in a file that only grows: on disk when `append` returns, whole or not at all."""

    def __init__(self, path: Path, form: TypeAdapter[Row]) -> None:
        """Reads what is there and cuts off half a last line. Raises ProblemError naming a line of another form."""
        self.path, self._lock = path, threading.Lock()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise ProblemError(f"cannot use {path}: {error.strerror}; give a writable directory") from None
        try:
            self.rows = list(self._read(form))
        except BaseException:
            self._file.close()
            raise

    def _read(self, form: TypeAdapter[Row]) -> Iterator[Row]:
        end = 0
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield parsed(form, line, f"{self.path}, line {number}", extra="ignore")
        self._file.truncate(end)

    def append(self, rows: Sequence[Row]) -> None:
        """Raises DiskError, and takes back what was half written, where the disk refuses. Threads may share it."""
        data = b"".join(row.model_dump_json().encode() + b"\n" for row in rows)
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(data)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._take_back(end)
                raise DiskError(
                    f"cannot write {self.path}: {error.strerror}; everything up to here is saved: free room, then run "
                    "the same command"
                ) from error
            self.rows.extend(rows)

    def _take_back(self, end: int) -> None:
        with contextlib.suppress(OSError):
            self._file.close()  # closing flushes what the disk has just refused
        os.truncate(self.path, end)
        self._file = self.path.open("a+b")

    def close(self) -> None:
        self._file.close()


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
    with locked(directory):
        if (directory / "config.json").exists():
            held = read_config(directory)
            check_same(held.identity.model_dump(mode="json"), config.identity.model_dump(mode="json"), directory)
            config = held
        else:
            check_unused(directory)
            lines = "".join(problem.model_dump_json() + "\n" for problem in benchmark.problems)
            write_whole(directory / "problems.jsonl", lines)
            write_whole(directory / "config.json", config.model_dump_json(indent=2) + "\n")
        with Store(directory, config) as store:
            yield store


def read_config(directory: Path) -> Config:
    """Raises ProblemError where the directory holds no run, or one that another version made."""
    return read_identified(directory, TypeAdapter(Config), "store_version", STORE_VERSION, "evaluate run")


def read_identified(directory: Path, form: TypeAdapter[Row], field: str, version: int, command: str) -> Row:
    """The config.json that `command` wrote; `field` of its identity is its version. Raises ProblemError."""
    path = directory / "config.json"
    data = _bytes(path, f"{directory} is no run directory")
    try:
        identity = json.loads(data)["identity"]
        known = field in identity
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ProblemError(f"{path} is no configuration of a run; give the directory that `{command}` wrote")
    check_version(path, json.dumps(identity).encode(), field, version)
    return parsed(form, data, str(path))


def check_version(where: Path | str, data: bytes, field: str, version: int) -> None:
    """Raises ProblemError where the JSON object says that another version of this package wrote it."""
    try:
        found = json.loads(data)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # no version at all: its reader says what is wrong
    if found != version:
        raise ProblemError(
            f"{where} has {field} {found}, this version of mucode_agent reads {version}; "
            "use the version that wrote it, or run again into another directory"
        )


def read_problems(directory: Path) -> list[Problem]:
    """Raises ProblemError where the file is damaged, or holds fewer than the run was begun with."""
    path = directory / "problems.jsonl"
    problems = list(_read_rows(path, _PROBLEMS))
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
    return finished_solves(list(_read_rows(directory / "trace.jsonl", _TRACE)))


def read_judgements(directory: Path) -> dict[tuple[str, str], Judgement]:
    return {(row.problem_id, row.program): row for row in _read_rows(directory / "judgements.jsonl", _JUDGEMENTS)}


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


def parsed(form: TypeAdapter[Row], data: bytes, where: str, *, extra: Literal["ignore"] | None = None) -> Row:
    """Raises ProblemError naming the place and the cause.

    `extra="ignore"` passes over fields that another version of this package may have, as in rows of a run.
    """
    try:
        return form.validate_json(data, extra=extra)
    except ValidationError as error:
        cause = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in cause["loc"]) or "the row"
        raise ProblemError(
            f"{where} is damaged or of another version: {field}: {cause['msg'].lower()}; "
            "restore the file, or run again into another directory"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """`path` holds all of `text`, or what it held before. Raises InfrastructureError."""
    try:
        descriptor, temporary = beside(path)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror}; free room, then run again") from error


def beside(path: Path) -> tuple[int, Path]:
    """A new hidden file in the directory of `path`, open, with the rights that a new `path` would have."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), temporary


def _sync(directory: Path) -> None:
    """A renamed file is still there after a crash of the machine only where its directory is on disk too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(value: Any) -> str:
    """SHA-256 of the JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


# --- whose directory it is -----------------------------------------------------------------------------------------


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory for this process. Raises ProblemError where another does."""
    path = directory / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise ProblemError(
                f"{directory} is in use by another run (process {holder or 'unknown'}); "
                "wait for it, or give another directory"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def check_same(held: dict[str, Any], asked: dict[str, Any], directory: Path) -> None:
    """Raises ProblemError saying what differs where results of two identities would be mixed."""
    differing = [
        f"{key} was {_told(held.get(key))}, now {_told(asked.get(key))}"
        for key in dict.fromkeys([*asked, *held])
        if held.get(key) != asked.get(key)
    ]
    if differing:
        raise ProblemError(
            f"{directory} holds results of another run: {'; '.join(differing)}; "
            "give another directory, or the old settings"
        )


def check_unused(directory: Path) -> None:
    """Raises ProblemError where a new run would be begun among somebody's files."""
    others = sorted(path.name for path in directory.iterdir() if path.name != "lock" and not path.name.startswith("."))
    strange = [name for name in others if name != "problems.jsonl"]  # written first: a start that was killed leaves it
    if strange:
        raise ProblemError(f"{directory} is no run directory and holds {strange[0]}; give a new or an empty directory")


def _told(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _bytes(path: Path, sentence: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProblemError(
            f"{sentence}: cannot read {path.name}: {error.strerror}; give a directory that a run has written"
        ) from None


def _read_rows(path: Path, form: TypeAdapter[Row]) -> Iterator[Row]:
    # What stands after the last line end is half a row that a running process is writing.
    lines = _bytes(path, f"{path.parent} is no whole run").split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        yield parsed(form, line, f"{path}, line {number}", extra="ignore")
