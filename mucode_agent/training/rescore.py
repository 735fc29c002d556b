"""`traces score`: scores stored programs with another verifier, and shows what it would have selected."""

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from mucode_agent.metrics import Estimate, auc, pairwise_accuracy, proportion
from mucode_agent.runs.directory import Solve
from mucode_agent.training.data import ProblemAttempts
from mucode_agent.types import ProblemError, Record, Verifier


class Rescored(Record):
    """One stored candidate under the verifier."""

    problem_id: str
    solve: str
    turn: int
    index: int
    logit: float
    probability: float | None
    correct: bool | None
    """None if no test judged it."""


class Quality(Record):
    """What the verifier would have selected in each turn with several judged programs; the mean over turns."""

    verifier: str
    problems: int
    programs: int
    selected: Estimate
    """Accuracy of the highest score; ties are averaged."""
    random: Estimate
    oracle: Estimate
    pairwise_accuracy: float | None
    """Of right and wrong programs of one turn."""
    auc: float | None


def rescored(traces: Iterable[tuple[ProblemAttempts, list[Solve]]], verifier: Verifier) -> Iterator[list[Rescored]]:
    """Scores turn by turn, with a turn's candidates together as in inference."""
    for entry, solves in traces:
        verdicts = {(a.solve, a.candidate.turn, a.candidate.index): a.correct for a in entry.attempts}
        public = entry.problem.public()
        for solve in solves:
            for _, turn in groupby(solve.candidates, key=lambda candidate: candidate.turn):
                candidates = list(turn)
                scores = verifier.score(public, candidates)
                yield [
                    Rescored(
                        problem_id=entry.problem.id,
                        solve=solve.run_id,
                        turn=candidate.turn,
                        index=candidate.index,
                        logit=score.logit,
                        probability=score.probability,
                        correct=verdicts.get((solve.run_id, candidate.turn, candidate.index)),
                    )
                    for candidate, score in zip(candidates, scores, strict=True)
                ]


def quality(turns: Iterable[list[Rescored]], verifier: str) -> Quality:
    """Raises ProblemError if no turn has two judged programs for a verifier to choose from."""
    judged = [[row for row in turn if row.correct is not None] for turn in turns]
    groups = [group for group in judged if len(group) > 1]
    if not groups:
        raise ProblemError("no turn here has two judged programs to choose between: draw with --n 2 or more")
    pairs = [([row.logit for row in group], [bool(row.correct) for row in group]) for group in groups]
    rows = [row for group in groups for row in group]
    within = pairwise_accuracy(pairs)
    return Quality(
        verifier=verifier,
        problems=len({row.problem_id for row in rows}),
        programs=len(rows),
        selected=proportion([_of_best(logits, labels) for logits, labels in pairs]),
        random=proportion([math.fsum(labels) / len(labels) for _, labels in pairs]),
        oracle=proportion([float(any(labels)) for _, labels in pairs]),
        pairwise_accuracy=within.value if within else None,
        auc=auc([row.logit for row in rows], [bool(row.correct) for row in rows]),
    )


def _of_best(logits: list[float], labels: list[bool]) -> float:
    best = [label for logit, label in zip(logits, labels, strict=True) if logit == max(logits)]
    return math.fsum(best) / len(best)


def table(found: Quality) -> Iterator[str]:
    """The lines that people read."""
    yield f"{found.verifier}: {found.programs} programs of {found.problems} problems, {found.selected.n} turns"
    named: list[tuple[str, Any]] = [("selected", found.selected), ("random", found.random), ("oracle", found.oracle)]
    for name, value in named:
        yield f"{name:<9} {100 * value.value:5.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    for name, figure in (("pairwise", found.pairwise_accuracy), ("auc", found.auc)):
        yield f"{name:<9} {'none' if figure is None else f'{figure:.3f}'}"
