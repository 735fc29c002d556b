"""Labelled attempts: a program, the state it was written in, and its label from all tests or from a user.

They are read from directories of `evaluate run`, `rollout`, `traces import` and `traces add`. The first three have
states and programs in their traces and labels in their judgements; the last has what users accepted or rejected.
`infra` and `unjudged` are no verdict and never become a label.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from langchain_core.messages import BaseMessage

from mucode_agent.graphs.selection import normal_form
from mucode_agent.models.identity import generator_identity
from mucode_agent.prompts import render
from mucode_agent.runs.directory import Judgement, Solve, read_problems
from mucode_agent.runs.earlier import read_finished
from mucode_agent.runs.reading import read_run
from mucode_agent.traces import CandidateRow, DecisionRow, read_trace
from mucode_agent.training.feedback import Feedback, holds_feedback, read_feedback, votes
from mucode_agent.training.imports import holds_import, read_import
from mucode_agent.types import Candidate, Problem, ProblemError, Record, Sample, Turn

Source = Literal["evaluation", "rollout", "import", "user"]
"""Where an attempt comes from: a benchmark's run, rollouts, another tool's record, or users."""


class Attempt(Record):
    """One program with its state and label: (s_t, y_t, R(x, y_t)) of the paper's D (algorithm 1)."""

    solve: str
    """The run id of the solve it belongs to: attempts of one solve are one trajectory."""
    turns: tuple[Turn, ...]
    """The state s_t: finished turns before this one, oldest first. Empty in the first turn."""
    candidate: Candidate
    form: str
    """`normal_form` of the program; programs of equal form have equal labels."""
    correct: bool
    """R(x, y): passes all public and private tests; if only users judged it, whether they accepted it."""
    source: Source = "rollout"
    weight: float = 1.0
    """Weight in training; positive."""


class Trajectory(Record):
    """The states of one solve: those after 0, 1, … of its turns."""

    solve: str
    turns: tuple[Turn, ...]
    """Finished turns, oldest first, whether or not they held a program."""
    accepted: bool
    """The last turn's program was accepted, so no state follows it."""

    @property
    def states(self) -> list[tuple[Turn, ...]]:
        """Every state visited: s_1 = (), and one after each turn that was fed back or could have been."""
        last = len(self.turns) - self.accepted
        return [self.turns[:turn] for turn in range(last + 1)]


class ProblemAttempts(Record):
    """A problem and every labelled attempt at it, in the order drawn."""

    problem: Problem
    attempts: tuple[Attempt, ...]
    trajectories: tuple[Trajectory, ...] = ()
    """Trajectories of all solves, including those without any program."""

    def distinct(self) -> list[Attempt]:
        """The first attempt of each program."""
        return list({attempt.form: attempt for attempt in reversed(self.attempts)}.values())[::-1]


def state(problem: Problem, turns: Sequence[Turn]) -> list[BaseMessage]:
    """The messages that the generator sees in a state, rendered as in inference."""
    return render(problem.public(), turns)


def read_attempts(paths: Iterable[Path]) -> list[ProblemAttempts]:
    """The labelled attempts in directories, problems in the order met; `stream_attempts` as a list."""
    return list(stream_attempts(paths))


def stream_attempts(paths: Iterable[Path]) -> Iterator[ProblemAttempts]:
    """Like `stream_traces`, without the solves."""
    return (entry for entry, _ in stream_traces(paths))


def stream_traces(
    paths: Iterable[Path], only: Callable[[Problem], bool] = lambda _: True
) -> Iterator[tuple[ProblemAttempts, list[Solve]]]:
    """The labelled attempts at each problem in directories, and the solves they come from; one problem at a time.

    Problems are in the order of reading. One that is in several directories gets the attempts of all; its id must then
    mean the same problem. If tests and users disagree on a program, the tests decide. Raises ProblemError naming the
    directory that cannot be read, or the id that means two things.
    """
    problems: dict[str, Problem] = {}
    holders: dict[str, list[_Source]] = {}
    for path in paths:
        source = _opened(Path(path))
        for problem in source.problems:
            if problems.setdefault(problem.id, problem) != problem:
                raise ProblemError(
                    f"{path} holds another problem under the id {problem.id!r} than an earlier directory; "
                    "give directories of the same problems and split"
                )
            holders.setdefault(problem.id, []).append(source)
    for problem in filter(only, problems.values()):
        attempts: dict[tuple[str, int, int], Attempt] = {}
        solves: dict[str, Solve] = {}
        for source in holders[problem.id]:
            drawn, labelled = source.traces(problem)
            for solve in drawn:
                solves.setdefault(solve.run_id, solve)
            for attempt in labelled:
                attempts.setdefault((attempt.solve, attempt.candidate.turn, attempt.candidate.index), attempt)
        kept = _tests_first(attempts.values())
        of_users = [_trajectory_of_user(attempt) for attempt in kept if attempt.source == "user"]
        trajectories = (*map(trajectory_of, solves.values()), *of_users)
        yield ProblemAttempts(problem=problem, attempts=kept, trajectories=trajectories), list(solves.values())


def trajectory_of(solve: Solve) -> Trajectory:
    return Trajectory(solve=solve.run_id, turns=tuple(_selected(solve)), accepted=solve.solution.solved)


def attempts_of(
    problem: Problem, solves: Iterable[Solve], judgements: Iterable[Judgement], source: Source = "rollout"
) -> Iterator[Attempt]:
    """The labelled attempts of finished solves. Replies without a judged program are left out."""
    verdicts = {row.program: row for row in judgements if row.problem_id == problem.id and row.judged}
    for solve in solves:
        bests = _selected(solve)
        for candidate in solve.candidates:
            verdict = verdicts.get(form := normal_form(candidate.code)) if candidate.code else None
            if verdict is not None:
                yield Attempt(
                    solve=solve.run_id,
                    turns=tuple(turn for turn in bests if turn.best.turn < candidate.turn),
                    candidate=candidate,
                    form=form,
                    correct=verdict.correct,
                    source=source,
                )


def generators_of(paths: Iterable[Path]) -> list[str]:
    """The generators whose programs the directories hold; see `models.identity`. Raises ProblemError."""
    found: dict[str, None] = {}
    for path in paths:
        if holds_feedback(path):
            continue  # the generator of programs that users judged is unknown
        if holds_import(path):
            found |= dict.fromkeys(map(generator_identity, read_import(path).models))
            continue
        identity = read_run(path).config.identity
        name = generator_identity(identity.model)
        found[f"{name.partition('@')[0]}@{identity.weights[:12]}" if identity.weights else name] = None
    return list(found)


def data_sha256(data: Iterable[ProblemAttempts]) -> str:
    """Digest of a data set's problems, programs and labels, independent of directories."""
    digest = hashlib.sha256()
    for entry in data:
        rows = sorted((attempt.form, attempt.correct, attempt.weight) for attempt in entry.attempts)
        digest.update(json.dumps([entry.problem.model_dump(mode="json"), rows], sort_keys=True).encode())
    return digest.hexdigest()


class _Source(Protocol):
    """An opened directory."""

    @property
    def problems(self) -> Sequence[Problem]: ...

    def traces(self, problem: Problem) -> tuple[Sequence[Solve], Iterable[Attempt]]: ...


class _Run:
    """Reads one shard at a time, because all together do not fit in memory."""

    def __init__(self, path: Path) -> None:
        self._run = read_run(path)
        self.problems = read_problems(path)
        arms = self._run.config.identity.arms
        self._source: Source = "rollout" if arms[0].name == "rollout" else "evaluation"

    def traces(self, problem: Problem) -> tuple[Sequence[Solve], Iterable[Attempt]]:
        shard = self._run.shard(problem)
        if shard is None:
            return (), ()
        return shard.solves, attempts_of(problem, shard.solves, shard.judgements, self._source)


class _Imported:
    """If a solve's decisions were not recorded, only the state of its first turn is known."""

    def __init__(self, path: Path) -> None:
        self.problems = read_problems(path)
        self._solves, self._judgements = read_finished(path)
        first: dict[str, list[CandidateRow]] = {}
        decided: set[str] = set()
        for row in read_trace(path / "trace.jsonl"):
            if isinstance(row, CandidateRow) and row.candidate.turn == 1:
                first.setdefault(row.run_id, []).append(row)
            elif isinstance(row, DecisionRow):
                decided.add(row.run_id)
        self._first: dict[str, list[Solve]] = {}
        for run_id, rows in first.items():
            if run_id not in decided:
                id_, candidates = rows[0].problem_id, tuple(row.candidate for row in rows)
                solve = Solve(run_id=run_id, problem_id=id_, settings={}, candidates=candidates, decisions=())
                self._first.setdefault(id_, []).append(solve)

    def traces(self, problem: Problem) -> tuple[Sequence[Solve], Iterable[Attempt]]:
        solves, judgements = self._solves.get(problem.id, []), self._judgements.get(problem.id, [])
        drawn = [*solves, *self._first.get(problem.id, [])]
        return solves, attempts_of(problem, drawn, judgements, "import")


class _Users:
    def __init__(self, path: Path) -> None:
        self._rows: dict[str, list[Feedback]] = {}
        for row in read_feedback(path):
            self._rows.setdefault(row.problem.id, []).append(row)
        self.problems = [rows[0].problem for rows in self._rows.values()]

    def traces(self, problem: Problem) -> tuple[Sequence[Solve], Iterable[Attempt]]:
        return (), [_voted(form, *vote) for form, vote in votes(self._rows.get(problem.id, [])).items()]


def _voted(form: str, code: str, weight: float) -> Attempt:
    """A first answer, as if the generator had given it in the form it is asked for."""
    sample = Sample(text=f"```python\n{code}\n```", seed=0)
    return Attempt(
        solve=f"user-{form[:16]}",
        turns=(),
        candidate=Candidate(turn=1, index=0, sample=sample, code=code),
        form=form,
        correct=weight > 0,
        source="user",
        weight=abs(weight),
    )


def _trajectory_of_user(attempt: Attempt) -> Trajectory:
    """For a user's verdict only the first state is known, because the feedback is unknown."""
    return Trajectory(solve=attempt.solve, turns=(Turn(best=attempt.candidate, candidates=1),), accepted=True)


def _opened(path: Path) -> _Source:
    if holds_import(path):
        return _Imported(path)
    return _Users(path) if holds_feedback(path) else _Run(path)


def _tests_first(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Makes labels of programs of equal form equal; the tests' label if there is one."""
    found = list(attempts)
    tested = {attempt.form: attempt.correct for attempt in found if attempt.source != "user"}
    return tuple(
        attempt
        if tested.get(attempt.form, attempt.correct) == attempt.correct
        else attempt.model_copy(update={"correct": tested[attempt.form]})
        for attempt in found
    )


def _selected(solve: Solve) -> list[Turn]:
    """The finished turns of a solve: what was fed back after each."""
    by_place = {(candidate.turn, candidate.index): candidate for candidate in solve.candidates}
    last = {row.decision.turn: row.decision for row in solve.decisions}
    return [
        Turn(best=by_place[turn, decision.selected], candidates=decision.drawn)
        for turn, decision in sorted(last.items())
    ]
