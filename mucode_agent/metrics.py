"""The statistics of an evaluation, as pure functions of numbers: estimates, intervals, comparisons, verifier quality.

SciPy computes the bootstrap, the binomial test and ranks. Its Wilson interval accepts only whole counts, but outcomes
may be fractional here.

Sources: pass@k, Chen et al. 2021 (arXiv 2107.03374) eq. 1; Best-of-k, the same argument on a ranking; Wilson 1927;
McNemar 1947 in its exact binomial form; the bootstrap, Efron & Tibshirani 1993 chapter 13; AUC as the Mann-Whitney
statistic, Hanley & McNeil 1982; calibration, Brier 1950 and Naeini et al. 2015.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby

from mucode_agent.types import Record

RESAMPLES = 10_000
"""Bootstrap resamples; the ends of a 95 % interval then vary between seeds by about 1 % of its width."""

Z95 = 1.959963984540054


class Estimate(Record):
    """A mean over problems with the ends of its 95 % interval, in the same unit."""

    value: float
    low: float
    high: float
    n: int
    """Number of problems."""


class Difference(Record):
    """Run B minus run A on the same problems."""

    a: Estimate
    b: Estimate
    value: float
    low: float
    high: float
    """Ends of the paired bootstrap's 95 % interval."""
    p_value: float | None
    """McNemar's exact two-sided p; None unless both runs have one right-or-wrong answer per problem."""
    only_a: float
    """Problems that only A solved; for fractional outcomes, the sum of A's excess."""
    only_b: float

    @property
    def shown(self) -> bool:
        """The interval excludes zero and, where McNemar applies, its p is below 0.05."""
        return (self.low > 0 or self.high < 0) and (self.p_value is None or self.p_value < 0.05)

    @property
    def verdict(self) -> str:
        if not self.shown:
            return "no difference shown"
        return "B is better" if self.value > 0 else "A is better"


class Bin(Record):
    """One bar of a reliability diagram: the predicted and the observed share."""

    predicted: float
    observed: float
    count: int


class Calibration(Record):
    """How well probabilities are calibrated. 0 is best for both figures."""

    brier: float
    """Mean squared distance of probability and outcome."""
    expected_error: float
    """Mean |predicted − observed| over the bins, weighted by their counts (ECE)."""
    bins: tuple[Bin, ...]


# --- proportions ---------------------------------------------------------------------------------------------------


def proportion(values: Sequence[float]) -> Estimate:
    """The mean of per-problem outcomes in [0, 1], with its Wilson score interval.

    For right-or-wrong outcomes this is Wilson's interval. A mean of fractional outcomes (an estimate of Best-of-k per
    problem) varies less than a coin of the same mean, var(x) ≤ p(1−p), so there the interval is wider than necessary.
    """
    if not values:
        raise ValueError("a proportion needs at least one outcome, got none")
    if outside := [value for value in values if not 0 <= value <= 1]:
        raise ValueError(f"outcomes lie between 0 and 1, got {outside[0]}")
    return wilson(math.fsum(values) / len(values), len(values))


def wilson(mean: float, n: int) -> Estimate:
    """A mean of n outcomes in [0, 1] with Wilson's score interval."""
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
    return Estimate(value=mean, low=max(0.0, min(mean, centre - half)), high=min(1.0, max(mean, centre + half)), n=n)


# --- k of n samples ------------------------------------------------------------------------------------------------


def pass_at_k(correct: int, n: int, k: int) -> float:
    """P(at least one of k samples is right), unbiased from `correct` right among n: 1 − C(n−c, k)/C(n, k).

    Chen et al. 2021, eq. 1. Exact integers, so no loss at any n.
    """
    _check_k(n, k)
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be between 0 and n = {n}, got {correct}")
    return float(1 - Fraction(math.comb(n - correct, k), math.comb(n, k)))


def best_of_k(ranking: Sequence[tuple[float, ...]], correct: Sequence[bool], k: int) -> float:
    """P(the best ranked of k samples is right), unbiased from n samples; a higher key is better, ties are random.

    With samples in rank order the best of a random k-subset is sample i with probability C(n−1−i, k−1)/C(n, k). Summed
    over a group of m ties below b better samples: [C(n−b, k) − C(n−b−m, k)]/C(n, k), spread evenly over the group.
    That is the mean over every subset and every order of the ties, with no sampling. All keys equal gives `random`;
    the key `correct` gives the oracle bound, which is pass@k.
    """
    n = len(ranking)
    _check_k(n, k)
    pairs = sorted(zip(ranking, correct, strict=True), key=lambda pair: pair[0], reverse=True)
    total, better = Fraction(0), 0
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        labels = [label for _, label in group]
        wins = math.comb(n - better, k) - math.comb(n - better - len(labels), k)
        total += Fraction(wins * sum(labels), len(labels))
        better += len(labels)
    return float(total / math.comb(n, k))


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} samples, got {k}")


# --- two runs on the same problems ---------------------------------------------------------------------------------


def compare(a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Run B minus run A, outcomes aligned by problem: paired bootstrap over problems, and McNemar where it applies."""
    if len(a) != len(b):
        raise ValueError(f"a paired comparison needs the same problems in both runs, got {len(a)} and {len(b)}")
    differences = [y - x for x, y in zip(a, b, strict=True)]
    binary = all(value in (0, 1) for value in (*a, *b))
    only_a, only_b = math.fsum(-d for d in differences if d < 0), math.fsum(d for d in differences if d > 0)
    low, high = bootstrap_mean(differences, seed=seed, resamples=resamples)
    return Difference(
        a=proportion(a),
        b=proportion(b),
        value=math.fsum(differences) / len(differences),
        low=low,
        high=high,
        p_value=mcnemar(round(only_a), round(only_b)) if binary else None,
        only_a=only_a,
        only_b=only_b,
    )


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of the mean, problems drawn with replacement; seeded."""
    import numpy as np
    from scipy.stats import bootstrap

    if not values:
        raise ValueError("a bootstrap needs at least one value, got none")
    if len(values) == 1:  # SciPy asks for two
        return float(values[0]), float(values[0])
    rows = max(1, 4_000_000 // len(values))  # a bounded block of indices at a time
    drawn = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=resamples,
        batch=rows,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that A and B solve equally often, from the problems that only one of them solved.

    Under the null hypothesis each such problem is a fair coin; 1 if there is none.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


# --- the verifier --------------------------------------------------------------------------------------------------


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """P(a right answer scores above a wrong one), ties counting half; None unless there are both kinds."""
    from scipy.stats import rankdata

    right = sum(labels)
    wrong = len(labels) - right
    if not right or not wrong:
        return None
    ranks = rankdata(scores)
    above = math.fsum(rank for rank, label in zip(ranks, labels, strict=True) if label)
    return (above - right * (right + 1) / 2) / (right * wrong)


def pairwise_accuracy(problems: Iterable[tuple[Sequence[float], Sequence[bool]]]) -> Estimate | None:
    """The mean of `auc` within each problem that has right and wrong answers, the verifier's training goal (eq. 3).

    None if no problem has both. Unlike the pooled AUC it does not reward separating easy from hard problems.
    """
    values = [value for scores, labels in problems if (value := auc(scores, labels)) is not None]
    return proportion(values) if values else None


def calibration(probabilities: Sequence[float], labels: Sequence[bool], *, bins: int = 10) -> Calibration | None:
    """Brier score and expected calibration error over bins of about equal count; None without probabilities.

    Equal probabilities share a bin, whatever their number; splitting them by label would create miscalibration.
    """
    if not probabilities:
        return None
    pairs = sorted(zip(probabilities, map(float, labels), strict=True))
    n = len(pairs)
    groups: list[list[tuple[float, float]]] = [[]]
    for _, tied in groupby(pairs, key=lambda pair: pair[0]):
        if len(groups[-1]) >= n / bins:
            groups.append([])
        groups[-1].extend(tied)
    filled = tuple(
        Bin(
            predicted=math.fsum(p for p, _ in group) / len(group),
            observed=math.fsum(y for _, y in group) / len(group),
            count=len(group),
        )
        for group in groups
    )
    return Calibration(
        brier=math.fsum((p - y) ** 2 for p, y in pairs) / n,
        expected_error=math.fsum(abs(bar.predicted - bar.observed) * bar.count for bar in filled) / n,
        bins=filled,
    )
