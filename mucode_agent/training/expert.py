"""The local-search expert: the best program seen for a problem, in any turn and round. Pure functions.

Step 4 of the paper's algorithm 1: π*(x) = argmax over y in D(x) of β_O·R(x, y) + β_L·R_φ(x, y). It needs no search and
no stronger model, because correctness depends on the problem alone (one-step recoverability, 3.5).
"""

from collections.abc import Iterable, Mapping

from mucode_agent.training.data import Attempt, ProblemAttempts
from mucode_agent.training.settings import ExpertSettings
from mucode_agent.types import ProblemError

Logits = Mapping[tuple[str, str], float]
"""R_φ by problem id and normal form of the program."""


def expert(entry: ProblemAttempts, logits: Logits, settings: ExpertSettings) -> Attempt | None:
    """The attempt with the program for every state of the problem; None if there is none to learn from.

    Ties go to the shorter program, then to the smaller normal form and text, so the order of the attempts does not
    matter. Raises ProblemError if a program has no logit.
    """
    pool = list(finals(entry).values()) if settings.pool == "final" else list(entry.attempts)
    if settings.leaves_out_unsolved and not any(a.correct for a in pool):
        return None
    return min(pool, key=lambda attempt: _order(entry, attempt, logits, settings), default=None)


def finals(entry: ProblemAttempts) -> dict[str, Attempt]:
    """By solve, the program of its last turn; a solve without a program in that turn has no final program.

    Of several candidates in the last turn the selected one counts, if the trajectory records it.
    """
    ends = {t.solve: (len(t.turns), t.turns[-1].best.index) for t in entry.trajectories if t.turns}
    found: dict[str, Attempt] = {}
    for attempt in entry.attempts:
        place = (attempt.candidate.turn, attempt.candidate.index)
        if attempt.solve in ends:
            if place == ends[attempt.solve]:
                found[attempt.solve] = attempt
        elif attempt.solve not in found or place[0] > found[attempt.solve].candidate.turn:
            found[attempt.solve] = attempt
    return found


def logit_of(entry: ProblemAttempts, attempt: Attempt, logits: Logits) -> float:
    try:
        return logits[entry.problem.id, attempt.form]
    except KeyError:
        raise ProblemError(
            f"a program of problem {entry.problem.id!r} has no score of the verifier; give a verifier, or mode oracle"
        ) from None


def solved(data: Iterable[ProblemAttempts]) -> int:
    """Number of problems with a right program."""
    return sum(any(attempt.correct for attempt in entry.attempts) for entry in data)


def _order(
    entry: ProblemAttempts, attempt: Attempt, logits: Logits, settings: ExpertSettings
) -> tuple[tuple[float, ...], int, str, str]:
    """Sorts attempts, the expert's choice first."""
    right, code = float(attempt.correct), attempt.candidate.code
    learned = logit_of(entry, attempt, logits) if settings.needs_verifier else 0.0
    value: tuple[float, ...]
    match settings.mode:
        case "oracle":
            value = (right,)
        case "learned":
            value = (learned,)
        case "lexicographic":
            value = (right, learned)
        case "both":
            value = (settings.beta_oracle * right + settings.beta_learned * learned,)
    return tuple(-part for part in value), len(code), attempt.form, code
