"""Measures a verifier on held-out problems, and calibrates its logits to probabilities there."""

import random
from collections.abc import Sequence
from pathlib import Path

from mucode_agent.metrics import Calibration, auc, calibration, pairwise_accuracy
from mucode_agent.training.data import Attempt, ProblemAttempts
from mucode_agent.types import ProblemError, Verifier
from mucode_agent.verifiers.calibration import fit_isotonic, fit_platt
from mucode_agent.verifiers.card import Quality, VerifierCard
from mucode_agent.verifiers.local import LocalVerifier

Scored = list[tuple[Attempt, float]]


def calibrated_card(card: VerifierCard, directory: Path, held_out: Sequence[ProblemAttempts]) -> VerifierCard:
    """`card` with calibration and quality, measured with the saved weights in `directory`."""
    return with_quality(card, scored(LocalVerifier(str(directory)), held_out), directory / "reliability.png")


def scored(verifier: Verifier, data: Sequence[ProblemAttempts]) -> list[Scored]:
    """The logit of every distinct program, problem by problem: all attempts at a problem are scored as one group."""
    found = []
    for entry in data:
        scores = verifier.score(entry.problem.public(), [attempt.candidate for attempt in entry.attempts])
        logits = {a.form: score.logit for a, score in zip(reversed(entry.attempts), reversed(scores), strict=True)}
        found.append([(attempt, logits[attempt.form]) for attempt in entry.distinct()])
    return found


def with_quality(card: VerifierCard, problems: Sequence[Scored], plot: Path | None = None) -> VerifierCard:
    """The card with calibration and quality from the scores.

    Quality figures of probabilities are cross-fitted: each half of the problems is judged by a calibration fitted on
    the other. If the labels or the verifier allow no calibration, the card has none.
    """
    rows = [(logit, attempt.correct) for problem in problems for attempt, logit in problem]
    logits, labels = [logit for logit, _ in rows], [label for _, label in rows]
    within = pairwise_accuracy([([x for _, x in p], [a.correct for a, _ in p]) for p in problems])
    quality = Quality(
        problems=len(problems),
        candidates=len(rows),
        right=sum(labels),
        pairwise_accuracy=within.value if within else None,
        auc=auc(logits, labels),
    )
    try:
        platt = fit_platt(logits, labels)
        crossed = _cross_fitted(problems)
    except ProblemError:
        return card.model_copy(update={"quality": quality})
    if crossed is not None:
        found, isotonic = crossed
        quality = quality.model_copy(
            update={
                "brier": found.brier,
                "expected_error": found.expected_error,
                "isotonic_brier": isotonic.brier,
            }
        )
        if plot is not None:
            reliability_plot(found, plot)
    return card.model_copy(update={"calibration": platt, "quality": quality})


def _cross_fitted(problems: Sequence[Scored]) -> tuple[Calibration, Calibration] | None:
    """Calibration error of Platt and of isotonic probabilities, each half judged by the other's fit."""
    order = list(problems)
    random.Random(0).shuffle(order)  # noqa: S311
    halves = order[::2], order[1::2]
    by_platt: list[tuple[float, bool]] = []
    by_isotonic: list[tuple[float, bool]] = []
    for fitted_on, judged in (halves, halves[::-1]):
        logits = [logit for problem in fitted_on for _, logit in problem]
        labels = [attempt.correct for problem in fitted_on for attempt, _ in problem]
        try:
            platt, isotonic = fit_platt(logits, labels), fit_isotonic(logits, labels)
        except ProblemError:
            return None
        for problem in judged:
            by_platt += [(platt.probability(logit), attempt.correct) for attempt, logit in problem]
            by_isotonic += [(isotonic.probability(logit), attempt.correct) for attempt, logit in problem]
    found = [calibration([p for p, _ in rows], [y for _, y in rows]) for rows in (by_platt, by_isotonic)]
    return (found[0], found[1]) if found[0] and found[1] else None


def reliability_plot(found: Calibration, path: Path) -> None:
    """Plots predicted against observed share of right programs; does nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.plot([bar.predicted for bar in found.bins], [bar.observed for bar in found.bins], "o-", color="tab:blue")
    for bar in found.bins:
        axes.annotate(str(bar.count), (bar.predicted, bar.observed), textcoords="offset points", xytext=(4, -10))
    axes.set(xlabel="P(correct) promised", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"Brier {found.brier:.3f}, ECE {found.expected_error:.3f}")
    figure.savefig(path, dpi=120)
