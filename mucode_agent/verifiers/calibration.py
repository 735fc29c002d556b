"""From logits to P(correct): Platt's scaling, with isotonic regression beside it for comparison.

Platt 1999, with the target smoothing of Lin, Lin & Weng 2007; isotonic by pooling adjacent violators (Zadrozny & Elkan
2002). The form is that of vLLM's pooler: P = sigmoid((logit - mean) / sigma).
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from mucode_agent.types import ProblemError, Record

_MOST_STEPS = 100


class Platt(Record):
    """P(correct) = sigmoid((logit - mean) / sigma); vLLM's `logit_mean` and `logit_sigma`."""

    mean: Annotated[float, Field(allow_inf_nan=False)]
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def scaled(self, logit: float) -> float:
        """The log-odds of P(correct)."""
        return (logit - self.mean) / self.sigma

    def probability(self, logit: float) -> float:
        return sigmoid(self.scaled(logit))


class Isotonic(Record):
    """A step function: P(correct) of the last threshold that the logit reaches."""

    thresholds: tuple[float, ...]
    probabilities: tuple[float, ...]

    def probability(self, logit: float) -> float:
        reached = [p for at, p in zip(self.thresholds, self.probabilities, strict=True) if logit >= at]
        return reached[-1] if reached else self.probabilities[0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_platt(logits: Sequence[float], labels: Sequence[bool]) -> Platt:
    """The maximum-likelihood scaling, by Newton's method on (a, b) of sigmoid(a·logit + b).

    Raises ProblemError where there are not both kinds of labels, or where the verifier ranks wrong above right: no
    scaling with a positive slope would then tell the truth.
    """
    right = sum(labels)
    wrong = len(labels) - right
    if not right or not wrong:
        raise ProblemError(
            f"calibration needs right and wrong programs, got {right} right and {wrong} wrong; give more held-out data"
        )
    # Lin, Lin & Weng 2007, section 2: targets short of 0 and 1 keep the slope finite on separable data.
    targets = [(right + 1) / (right + 2) if label else 1 / (wrong + 2) for label in labels]
    scale = max(map(abs, logits), default=0.0) or 1.0
    xs = [logit / scale for logit in logits]
    a, b = 0.0, math.log((right + 1) / (wrong + 1))
    for _ in range(_MOST_STEPS):
        da, db = _newton_step(xs, targets, a, b)
        a, b = a + da, b + db
        if abs(da) + abs(db) < 1e-10:
            break
    if a <= 0:
        raise ProblemError(
            f"the verifier's logits do not rise with correctness on {len(labels)} held-out programs (slope {a:.2g}); "
            "it has learned nothing to calibrate: train on more data, or longer"
        )
    return Platt(mean=-b / a * scale, sigma=scale / a)


def fit_isotonic(logits: Sequence[float], labels: Sequence[bool]) -> Isotonic:
    """The non-decreasing step function of least squared error."""
    if not logits:
        raise ProblemError("calibration needs at least one program, got none; give held-out data")
    blocks: list[tuple[float, float, int]] = []  # first logit, sum of labels, count
    for logit, label in sorted(zip(logits, map(float, labels), strict=True)):
        blocks.append((logit, label, 1))
        while len(blocks) > 1 and (
            blocks[-2][0] == blocks[-1][0] or blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]
        ):
            _, right, count = blocks.pop()
            first, right_before, count_before = blocks.pop()
            blocks.append((first, right_before + right, count_before + count))
    return Isotonic(
        thresholds=tuple(first for first, _, _ in blocks),
        probabilities=tuple(right / count for _, right, count in blocks),
    )


def _newton_step(xs: Sequence[float], targets: Sequence[float], a: float, b: float) -> tuple[float, float]:
    """One damped step of the two-parameter logistic regression."""
    ga = gb = 0.0
    haa = hab = hbb = 0.0
    for x, target in zip(xs, targets, strict=True):
        p = sigmoid(a * x + b)
        ga, gb = ga + (target - p) * x, gb + (target - p)
        weight = p * (1 - p)
        haa, hab, hbb = haa + weight * x * x, hab + weight * x, hbb + weight
    haa, hbb = haa + 1e-10, hbb + 1e-10
    determinant = haa * hbb - hab * hab
    da, db = (hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant
    damp = min(1.0, 10 / (abs(da) + abs(db) + 1e-30))
    return da * damp, db * damp
