"""Programs that users accepted or rejected, as weighted training data, with their consent only.

`traces add` appends rows `{"problem": …, "code": …, "accepted": …, "consent": …}` to a directory's feedback.jsonl. A
row without consent is counted, but not stored or shown.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mucode_agent.files import Journal, check_unused, digest, first_cause, lock_file, read_bytes, read_rows
from mucode_agent.graphs.selection import normal_form
from mucode_agent.problems import read_problem
from mucode_agent.types import Problem, ProblemError, Record

FEEDBACK_VERSION: Literal[1] = 1
_FILE = "feedback.jsonl"


class Feedback(Record):
    """One user's verdict on one program."""

    feedback_version: Literal[1] = FEEDBACK_VERSION
    id: str
    """Id of the event if given, else a digest of the row; the same id is never stored twice."""
    problem: Problem
    code: str
    accepted: bool
    consent: Literal[True]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Added(Record):
    """How many rows of a file were stored."""

    rows: int = 0
    kept: int = 0
    without_consent: int = 0
    known: int = 0
    """Rows that were already stored."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(pattern="")] | None = None
    problem: dict[str, Any]
    """A problem in any form that `read_problem` accepts. Without an id, its digest is the id."""
    code: Annotated[str, Field(min_length=1, pattern=r"\S")]
    accepted: bool
    consent: bool = False
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


_FEEDBACK = TypeAdapter(Feedback)


def add_feedback(file: Path, directory: Path) -> Added:
    """Copies the rows of `file` with consent into `directory`; if one row is malformed, copies none.

    Adding a file twice has no further effect. Two equal events count twice only if their rows have different ids.
    Raises ProblemError naming the line that cannot be used.
    """
    given = list(_given(file))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with lock_file(directory / "lock", wait=True):
            if holds_feedback(directory):
                _ = list(read_feedback(directory))  # rows of another version are refused before anything is added
            else:
                check_unused(directory)
            journal = Journal(directory / _FILE, _FEEDBACK)
            try:
                return _added(given, journal, file)
            finally:
                journal.close()
    except OSError as error:
        raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None


def holds_feedback(directory: Path) -> bool:
    return (directory / _FILE).is_file()


def read_feedback(directory: Path) -> Iterator[Feedback]:
    """Raises ProblemError naming a line that is damaged or of another version."""
    yield from read_rows(directory / _FILE, _FEEDBACK, version=("feedback_version", FEEDBACK_VERSION))


def votes(rows: Iterable[Feedback]) -> dict[str, tuple[str, float]]:
    """By normal form, a program and the weight of its acceptances minus that of its rejections; ties are left out."""
    found: dict[str, tuple[str, float]] = {}
    for row in rows:
        code, weight = found.get(form := normal_form(row.code), (row.code, 0.0))
        found[form] = code, weight + (row.weight if row.accepted else -row.weight)
    return {form: (code, weight) for form, (code, weight) in found.items() if weight}


def _added(given: Iterable[tuple[int, _Given | None]], journal: Journal[Feedback], file: Path) -> Added:
    known = {row.id for row in journal.rows}
    problems = {row.problem.id: row.problem for row in journal.rows}
    fresh: list[Feedback] = []
    counts = {"rows": 0, "without_consent": 0, "known": 0}
    for number, row in given:
        counts["rows"] += 1
        if row is None:
            counts["without_consent"] += 1
            continue
        feedback = _feedback(row, f"{file}, line {number}")
        if problems.setdefault(feedback.problem.id, feedback.problem) != feedback.problem:
            raise ProblemError(
                f"{file}, line {number}: the id {feedback.problem.id!r} means another problem than before; "
                "give each problem its own id, or none"
            )
        if feedback.id in known:
            counts["known"] += 1
            continue
        known.add(feedback.id)
        fresh.append(feedback)
    journal.append(fresh)
    return Added(kept=len(fresh), **counts)


def _feedback(row: _Given, where: str) -> Feedback:
    try:
        problem = read_problem(row.problem)
    except ProblemError as error:
        raise ProblemError(f"{where}: problem: {error}") from None
    if not problem.id:
        problem = problem.model_copy(update={"id": f"user/{digest(problem.model_dump(mode='json'))[:16]}"})
    content = {"problem": problem.model_dump(mode="json"), "code": row.code, "accepted": row.accepted}
    name = row.id if row.id is not None else digest({**content, "weight": row.weight})
    return Feedback(id=name, problem=problem, code=row.code, accepted=row.accepted, consent=True, weight=row.weight)


def _given(file: Path) -> Iterator[tuple[int, _Given | None]]:
    """Rows with their line numbers; None for any row without consent."""
    lines = read_bytes(file, remedy="give a file of rows (.jsonl)").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _row(line, f"{file}, line {number}")


def _row(line: bytes, where: str) -> _Given | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ProblemError(f"{where} is not JSON; give one JSON object per line, in UTF-8") from None
    if not isinstance(row, dict):
        raise ProblemError(f"{where} holds a JSON {type(row).__name__}; give one JSON object per line")
    if not row.get("consent"):
        return None
    try:
        return _Given.model_validate(row)
    except ValidationError as error:
        raise ProblemError(f"{where}: {first_cause(error)}") from None
