"""Labelled attempts: what generators wrote in which state, and what all tests say of it.

Directories that `evaluate run` and `rollout` wrote are read alike: their traces hold states and programs, their
judgements the labels. A verdict `infra` is nobody's fault and never becomes a label; a program without one has none.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from langchain_core.messages import BaseMessage

from mucode_agent.evaluation.store import Judgement, Solve, read_config, read_judgements, read_problems, read_solves
from mucode_agent.graphs.selection import normal_form
from mucode_agent.models.identity import generator_identity
from mucode_agent.prompts import render
from mucode_agent.training.shards import holds_rollouts, read_rollout_config, read_shards
from mucode_agent.types import Candidate, Problem, ProblemError, Record, Turn


class Attempt(Record):
    """One program with the state it was written in: (s_t, y_t, R(x, y_t)) of the paper's D (algorithm 1)."""

    solve: str
    """The run id of the solve it belongs to: attempts of one solve are one trajectory."""
    turns: tuple[Turn, ...]
    """The state s_t: finished turns before this one, oldest first. Empty in the first turn."""
    candidate: Candidate
    form: str
    """`normal_form` of the program; programs of equal form have equal labels."""
    correct: bool
    """R(x, y): passes all public and private tests."""


class Trajectory(Record):
    """The states that one solve went through: those after 0, 1, … of its turns."""

    solve: str
    turns: tuple[Turn, ...]
    """Finished turns, oldest first, whether or not they held a program."""
    accepted: bool
    """The last turn's program was accepted, so that no state comes after it."""

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
    """Of the solves that the attempts belong to; also of those that hold no program at all."""

    def distinct(self) -> list[Attempt]:
        """The first attempt of each program."""
        return list({attempt.form: attempt for attempt in reversed(self.attempts)}.values())[::-1]


def state(problem: Problem, turns: Sequence[Turn]) -> list[BaseMessage]:
    """The messages that the generator sees in a state: what inference renders, so that training sees the same."""
    return render(problem.public(), turns)


def read_attempts(paths: Iterable[Path]) -> list[ProblemAttempts]:
    """The labelled attempts in run directories, problems in the order met.

    A problem that stands in several directories gets the attempts of all; its id must then mean the same problem.
    Raises ProblemError naming the directory that cannot be read, or the id that means two things.
    """
    problems: dict[str, Problem] = {}
    attempts: dict[str, dict[tuple[str, int, int], Attempt]] = {}
    trajectories: dict[str, dict[str, Trajectory]] = {}
    for path in paths:
        for problem, solves, judgements in _read(Path(path)):
            if problems.setdefault(problem.id, problem) != problem:
                raise ProblemError(
                    f"{path} holds another problem under the id {problem.id!r} than an earlier directory; "
                    "give directories of the same problems and split"
                )
            known = attempts.setdefault(problem.id, {})
            for attempt in attempts_of(problem, solves, judgements):
                known.setdefault((attempt.solve, attempt.candidate.turn, attempt.candidate.index), attempt)
            for trajectory in map(trajectory_of, solves):
                trajectories.setdefault(problem.id, {}).setdefault(trajectory.solve, trajectory)
    return [
        ProblemAttempts(
            problem=problem,
            attempts=tuple(attempts[id_].values()),
            trajectories=tuple(trajectories.get(id_, {}).values()),
        )
        for id_, problem in problems.items()
    ]


def trajectory_of(solve: Solve) -> Trajectory:
    return Trajectory(solve=solve.run_id, turns=tuple(_selected(solve)), accepted=solve.solution.solved)


def attempts_of(problem: Problem, solves: Iterable[Solve], judgements: Iterable[Judgement]) -> Iterator[Attempt]:
    """The labelled attempts of finished solves. Replies without a program, and programs without a verdict, are passed
    over: there is nothing to learn from them.
    """
    verdicts = {row.program: row for row in judgements if row.problem_id == problem.id and row.status != "infra"}
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
                )


def generators_of(paths: Iterable[Path]) -> list[str]:
    """Whose programs the directories hold; see `models.identity`. Raises ProblemError."""
    found: dict[str, None] = {}
    for path in paths:
        if holds_rollouts(path):
            policy = read_rollout_config(path).identity.policy
            name = generator_identity(policy.model).partition("@")[0]
            found[f"{name}@{policy.weights[:12]}" if policy.weights else name] = None
        else:
            found[generator_identity(read_config(path).identity.model)] = None
    return list(found)


def data_sha256(data: Iterable[ProblemAttempts]) -> str:
    """Names a data set by problems, programs and labels, whatever the directories they came from."""
    digest = hashlib.sha256()
    for entry in data:
        rows = sorted((attempt.form, attempt.correct) for attempt in entry.attempts)
        digest.update(json.dumps([entry.problem.model_dump(mode="json"), rows], sort_keys=True).encode())
    return digest.hexdigest()


def _read(path: Path) -> Iterator[tuple[Problem, Sequence[Solve], Sequence[Judgement]]]:
    if holds_rollouts(path):
        for problem, shard in read_shards(path):
            yield problem, shard.solves if shard else (), shard.judgements if shard else ()
        return
    solves: dict[str, list[Solve]] = {}
    judgements: dict[str, list[Judgement]] = {}
    for solve in read_solves(path):
        solves.setdefault(solve.problem_id, []).append(solve)
    for judgement in read_judgements(path).values():
        judgements.setdefault(judgement.problem_id, []).append(judgement)
    for problem in read_problems(path):
        yield problem, solves.get(problem.id, ()), judgements.get(problem.id, ())


def _selected(solve: Solve) -> list[Turn]:
    """The finished turns of a solve: what was fed back after each."""
    by_place = {(candidate.turn, candidate.index): candidate for candidate in solve.candidates}
    last = {row.decision.turn: row.decision for row in solve.decisions}
    return [
        Turn(best=by_place[turn, decision.selected], candidates=decision.drawn)
        for turn, decision in sorted(last.items())
    ]
