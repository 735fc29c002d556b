"""`traces import`: solves that other tools recorded, as a directory that training, scoring and export read.

    imported.json     the files that it was made from, the generators, and what is missing
    problems.jsonl    the problems, with the private tests where they are known
    trace.jsonl       rows as `--trace` writes them (`mucode_agent.traces`)
    judgements.jsonl  the verdicts of every distinct program on all tests, where all tests are known

A node of the graph is recorded with its state and its update, and these hold what a trace holds. Where only model calls
are recorded, the rows hold replies and nothing that was decided.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from mucode_agent.extraction import extract_code
from mucode_agent.files import as_lines, check_unused, check_version, first_cause, parsed, read_bytes, write_whole
from mucode_agent.graphs.solver import candidates_of
from mucode_agent.problems import read_problem
from mucode_agent.runs.directory import Judgement
from mucode_agent.runs.judging import distinct_programs, judge
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, TraceRow
from mucode_agent.training.observed import ObservedRun, read_runs
from mucode_agent.types import Candidate, Decision, Problem, ProblemError, Record, Sample, Sandbox, Solution

IMPORT_VERSION: Literal[1] = 1
_FILE = "imported.json"
R = TypeVar("R", bound=Record)


class Imported(Record):
    """The sources of a directory of `traces import`, and what they lack."""

    import_version: Literal[1] = IMPORT_VERSION
    files: dict[str, str]
    """SHA-256 by name: the path below the directory that all files lie in."""
    models: tuple[str, ...]
    """The generators that the recorded calls name."""
    solves: int
    """Number of solves with every decision."""
    unfinished: int
    """Number of solves without decisions, because nodes are missing: only their first turns are of use."""
    candidates: int
    unlabelled: int
    """Candidates with a program but without a label, because the private tests are unknown."""
    calls_of_no_problem: int
    """Model calls without a known problem."""


class Recorded(Record):
    """The rows of files, and their problems."""

    rows: tuple[ProblemRow | CandidateRow | DecisionRow, ...]
    problems: tuple[Problem, ...]
    whole: frozenset[str]
    """Ids of the problems whose tests are all known."""
    models: tuple[str, ...]
    calls_of_no_problem: int


def recorded(runs: Sequence[ObservedRun], known: Mapping[str, Problem]) -> Recorded:
    """The solves in other tools' runs, row by row. `known` problems, by id, bring the private tests that the runs lack.

    Raises ProblemError if a solve's problem differs from the known one with its id, or is of a newer version.
    """
    problems: dict[str, Problem] = dict(known)
    for given in filter(None, map(_given, runs)):
        problems.setdefault(given.id, given)
    whole = frozenset(problems)
    steps: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    calls: dict[str, list[ObservedRun]] = {}
    for run in runs:
        if _is_step(run):
            steps.setdefault(run.inputs["run_id"], []).append((run.inputs, run.outputs))
        elif isinstance(run.facts.get("turn"), int | str) and run.replies:
            calls.setdefault(str(run.facts.get("run_id")), []).append(run)
    rows: list[TraceRow] = []
    asked: dict[str, Problem] = {}
    for run_id, taken in steps.items():
        problem = _problem(taken[0][0], problems)
        asked[problem.id] = problems.get(problem.id, problem)
        settings = taken[0][0]["settings"] | _model(calls.get(run_id, ()))
        rows.append(ProblemRow(run_id=run_id, problem=problem.public(), settings=settings))
        rows += dict.fromkeys(
            row for state, update in sorted(taken, key=_place) for row in _rows(run_id, state, update)
        )
    of_no_problem = 0
    for run_id in [key for key in calls if key not in steps]:
        made = calls[run_id]
        id_ = str(made[0].facts.get("problem_id"))
        if id_ in problems:
            asked[id_] = problems[id_]
            lacking = {"lacks": ["settings", "reports", "decisions"]} | _model(made)
            rows.append(ProblemRow(run_id=run_id, problem=problems[id_].public(), settings=lacking))
            rows += dict.fromkeys(_of_calls(run_id, problems[id_], made))
        else:
            of_no_problem += len(made)
    models = dict.fromkeys(run.model for made in calls.values() for run in made if run.model)
    return Recorded(
        rows=tuple(rows),
        problems=tuple(asked.values()),
        whole=whole & asked.keys(),
        models=tuple(models),
        calls_of_no_problem=of_no_problem,
    )


def import_traces(
    files: Sequence[Path],
    directory: Path,
    known: Iterable[Problem] = (),
    *,
    opened: Callable[[Sequence[Problem]], Sandbox],
) -> Imported:
    """Writes the directory, and judges programs in the sandbox that `opened` gives, if all their tests are known.

    Raises ProblemError if a file cannot be used or holds no solve, or if the directory holds something else.
    """
    _check_new(directory)
    named = _named(files)
    runs = [run for file in named.values() for run in read_runs(file)]
    found = recorded(runs, {problem.id: problem for problem in known})
    candidates: dict[str, list[Candidate]] = {}
    for row in found.rows:
        if isinstance(row, CandidateRow):
            candidates.setdefault(row.problem_id, []).append(row.candidate)
    if not candidates:
        lost = f"{found.calls_of_no_problem} model calls of problems that are not known" if runs else "nothing"
        raise ProblemError(
            f"{', '.join(map(str, files))} hold no solve, only {lost}; export all runs of a trace with their inputs "
            "and outputs, or give --problems"
        )
    judged = [problem for problem in found.problems if problem.id in found.whole]
    verdicts: list[Judgement] = []
    if judged:
        place = opened(judged)
        try:
            for problem in judged:
                asyncio.run(judge(place, problem, distinct_programs(candidates[problem.id]), verdicts.extend))
        finally:
            place.close()
    finished = {row.run_id for row in found.rows if isinstance(row, DecisionRow) and row.solution is not None}
    programs = [each for id_, made in candidates.items() if id_ not in found.whole for each in made if each.code]
    about = Imported(
        files={name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named.items()},
        models=found.models,
        solves=len(finished),
        unfinished=len({row.run_id for row in found.rows} - finished),
        candidates=sum(map(len, candidates.values())),
        unlabelled=len(programs),
        calls_of_no_problem=found.calls_of_no_problem,
    )
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / "problems.jsonl", as_lines(found.problems))
    write_whole(directory / "trace.jsonl", as_lines(found.rows))
    write_whole(directory / "judgements.jsonl", as_lines(verdicts))
    write_whole(directory / _FILE, about.model_dump_json(indent=2) + "\n")  # last: with it the directory is whole
    return about


def holds_import(directory: Path) -> bool:
    return (directory / _FILE).is_file()


def read_import(directory: Path) -> Imported:
    """Raises ProblemError if the file is damaged or of another version."""
    path = directory / _FILE
    data = read_bytes(path)
    check_version(path, data, "import_version", IMPORT_VERSION)
    return parsed(TypeAdapter(Imported), data, str(path))


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Each file once, by its path below the directory that all of them lie in."""
    whole = {file.resolve(): file for file in files}
    above = os.path.commonpath([path.parent for path in whole]) if whole else ""
    return {path.relative_to(above).as_posix(): file for path, file in whole.items()}


def _check_new(directory: Path) -> None:
    try:
        if directory.exists():
            check_unused(directory)
    except OSError as error:
        raise ProblemError(f"cannot read {directory}: {error.strerror}; give another directory") from None


# --- from runs to rows ---------------------------------------------------------------------------------------------


def _given(run: ObservedRun) -> Problem | None:
    """The problem as the caller gave it to the graph, private tests included; None in other runs."""
    given = run.inputs.get("problem") if isinstance(run.inputs, dict) else None
    if not isinstance(given, dict) or "run_id" in run.inputs:
        return None
    try:
        return read_problem(given)
    except ProblemError:
        return None


def _is_step(run: ObservedRun) -> bool:
    """Whether it is a node of our graph that decided something."""
    state, update = run.inputs, run.outputs
    return (
        isinstance(state, dict)
        and isinstance(update, dict)
        and bool(update.get("decision"))
        and {"run_id", "problem", "settings", "turns", "samples", "reports", "scores"} <= state.keys()
    )


def _problem(state: Mapping[str, Any], known: Mapping[str, Problem]) -> Problem:
    problem = _read(Problem, state["problem"])
    if problem.id in known and known[problem.id].public() != problem:
        raise ProblemError(
            f"the recorded problem {problem.id!r} is not the one of this id that was given: another prompt, other "
            "public tests or limits; give the problems as they were asked, with the same --split, or leave them out"
        )
    return problem


def _place(step: tuple[dict[str, Any], dict[str, Any]]) -> tuple[int, int, bool]:
    state, decision = step[0], step[1]["decision"]
    return len(state["turns"]), decision["drawn"], decision["action"] != "ask"


def _rows(run_id: str, state: dict[str, Any], update: dict[str, Any]) -> Iterator[TraceRow]:
    """The trace rows of a node."""
    count, before = len(state["reports"]), state.get("decision") or {}
    scores = [*state["scores"], *[None] * count][:count]
    decision = _read(Decision, update["decision"])
    solution = _read(Solution, update["solution"]) if update.get("solution") else None
    id_ = state["problem"]["id"]
    try:
        made = candidates_of({**state, "samples": state["samples"][:count], "scores": scores})  # type: ignore[typeddict-item]
    except ValidationError as error:
        raise ProblemError(f"the solve {run_id} cannot be read: {first_cause(error)}; update the package") from None
    if solution is not None and solution.best.turn == decision.turn and solution.best.index == len(made):
        made.append(solution.best)  # a person wrote it
    recorded_before = before["drawn"] if before.get("action") in ("draw", "ask") else 0
    for candidate in made[recorded_before:]:
        yield CandidateRow(run_id=run_id, problem_id=id_, candidate=candidate)
    yield DecisionRow(run_id=run_id, problem_id=id_, decision=decision, solution=solution)


def _of_calls(run_id: str, problem: Problem, calls: Sequence[ObservedRun]) -> Iterator[CandidateRow]:
    """Only replies, without verdicts and decisions."""
    for run in sorted(calls, key=lambda run: (int(run.facts["turn"]), int(run.facts.get("candidate", 0)))):
        first = int(run.facts.get("candidate", 0))
        alone = len(run.replies) == 1
        for index, (text, reason) in enumerate(run.replies, start=first):
            sample = Sample(
                text=text,
                seed=_seed(run),
                prompt_tokens=(run.prompt_tokens or 0) if alone else 0,
                completion_tokens=(run.completion_tokens or 0) if alone else 0,
                finish_reason=reason,
            )
            code = extract_code(text, problem.entry_point)
            made = Candidate(turn=int(run.facts["turn"]), index=index, sample=sample, code=code)
            yield CandidateRow(run_id=run_id, problem_id=problem.id, candidate=made)


def _model(calls: Iterable[ObservedRun]) -> dict[str, str]:
    """The generator's name, if the calls agree on one."""
    names = {run.model for run in calls}
    [name, *others] = names or {None}
    return {"model": name} if name and not others else {}


def _seed(run: ObservedRun) -> int:
    for key in ("seed", "ls_seed"):
        if isinstance(value := run.metadata.get(key), int):
            return value
    return 0


def _read(kind: type[R], data: Any) -> R:
    """A record of a state; fields of a newer version are ignored."""
    try:
        return kind.model_validate(data, extra="ignore")
    except ValidationError as error:
        cause = first_cause(error)
        raise ProblemError(f"a recorded {kind.__name__.lower()} cannot be read: {cause}; update the package") from None
