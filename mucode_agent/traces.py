"""Traces: append-only JSONL, with a row for the problem, then one row per candidate and per decision.

A trace has no labels, and private tests never appear in it. Rows of a resumed solve may appear twice; `read_trace`
returns each once.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import Field, TypeAdapter

from mucode_agent.files import append_lines, as_lines, end_of_last_line, lock_file, parsed, remedy
from mucode_agent.types import Candidate, Decision, InfrastructureError, Problem, ProblemError, Record, Solution

TRACE_VERSION: Final = 1
_OPENING = b'{"kind":"'
"""The beginning of every row, by which traces are recognised."""


class ProblemRow(Record):
    """The first row of a solve: the problem, the model and the settings."""

    kind: Literal["problem"] = "problem"
    trace_version: Literal[1] = TRACE_VERSION
    run_id: str
    problem: Problem
    """The problem as the solver saw it: without private tests and reference."""
    settings: dict[str, Any]
    """Model, verifier, selector, n, max_turns, seed, sampling settings, prompt digest."""


class CandidateRow(Record):
    """One candidate, complete: its sample, program, report on the public tests and score."""

    kind: Literal["candidate"] = "candidate"
    run_id: str
    problem_id: str
    candidate: Candidate


class DecisionRow(Record):
    """What the router decided after a wave."""

    kind: Literal["decision"] = "decision"
    run_id: str
    problem_id: str
    decision: Decision
    solution: Solution | None = None
    """Set in the last row of a run."""


TraceRow = Annotated[ProblemRow | CandidateRow | DecisionRow, Field(discriminator="kind")]
_ROW: TypeAdapter[Any] = TypeAdapter(TraceRow)
_WRONG = f"is no trace row of version {TRACE_VERSION}"
_REMEDY = "if a newer mucode_agent wrote it, update the package"


class TraceSink(Protocol):
    """A sink for the rows of the graph's nodes."""

    def write(self, rows: Sequence[TraceRow]) -> None: ...


class NullTrace:
    """Discards the rows."""

    def write(self, rows: Sequence[TraceRow]) -> None:
        del rows


class MemoryTrace:
    """Keeps the rows in a list."""

    def __init__(self) -> None:
        self.rows: list[TraceRow] = []

    def write(self, rows: Sequence[TraceRow]) -> None:
        self.rows.extend(rows)


class JsonlTrace:
    """Appends to a file. Several processes may share it: each write is one locked append of whole lines."""

    def __init__(self, path: str | Path) -> None:
        """Raises ProblemError if the file cannot be written."""
        self.path = Path(path)
        try:
            with self.path.open("ab+") as file:
                file.seek(0)
                start = file.read(len(_OPENING))
        except OSError as error:
            raise ProblemError(f"cannot write the trace {self.path}: {error.strerror}; give a writable path") from None
        if not _OPENING.startswith(start):
            raise ProblemError(f"{self.path} holds something else than a trace; give a new path, or an earlier trace")

    def write(self, rows: Sequence[TraceRow]) -> None:
        """Writes all of `rows` to disk, or none. Raises InfrastructureError."""
        try:
            _append(self.path, as_lines(rows).encode())
        except OSError as error:
            raise InfrastructureError(
                f"cannot write the trace {self.path}: {error.strerror}; {remedy(error)}, then resume"
            ) from error


def read_trace(path: str | Path) -> Iterator[TraceRow]:
    """Each row of a trace once, in order; an incomplete last line and fields of a newer version are ignored.

    Raises ProblemError naming a bad line.
    """
    seen: set[bytes] = set()
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n") or (digest := hashlib.sha256(line).digest()) in seen:
                    continue
                seen.add(digest)
                yield parsed(_ROW, line, f"{path}, line {number}", wrong=_WRONG, remedy=_REMEDY, extra="ignore")
    except OSError as error:
        raise ProblemError(f"cannot read the trace {path}: {error.strerror}") from None


def run_id(problem: Problem, settings: dict[str, Any]) -> str:
    """A solve's run id: a digest of everything that determines it, so the same solve has the same id."""
    key = TypeAdapter(dict[str, Any]).dump_json({"problem": problem.model_dump(mode="json"), "settings": settings})
    return hashlib.sha256(key).hexdigest()[:16]


def _append(path: Path, lines: bytes) -> None:
    with lock_file(path, wait=True) as descriptor:
        if not _OPENING.startswith(os.pread(descriptor, len(_OPENING), end_of_last_line(descriptor))):
            raise OSError(errno.EINVAL, "its last line is no trace row")
        append_lines(descriptor, lines)
