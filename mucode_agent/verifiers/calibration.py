"""From logits to P(correct): Platt's scaling, with isotonic regression for comparison.

Platt 1999, with the target smoothing of Lin, Lin & Weng 2007; isotonic by pooling adjacent violators (Zadrozny & Elkan
2002). The form is that of vLLM's pooler: P = sigmoid((logit - mean) / sigma).
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

from pydantic import Field

from mucode_agent.types import ProblemError, Record


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
    """The maximum-likelihood scaling. Needs SciPy.

    Raises ProblemError if the labels are not of both kinds, or if the verifier ranks wrong above right: then no scaling
    with a positive slope fits.
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
    a, b = _logistic([logit / scale for logit in logits], targets)
    if a <= 0:
        raise ProblemError(
            f"the verifier's logits do not rise with correctness on {len(labels)} held-out programs (slope {a:.2g}); "
            "it has learned nothing to calibrate: train on more data, or longer"
        )
    return Platt(mean=-b / a * scale, sigma=scale / a)


def fit_isotonic(logits: Sequence[float], labels: Sequence[bool]) -> Isotonic:
    """The non-decreasing step function with the least squared error. Needs SciPy."""
    if not logits:
        raise ProblemError("calibration needs at least one program, got none; give held-out data")
    from scipy.optimize import isotonic_regression

    groups = [
        (at, [label for _, label in group])
        for at, group in groupby(sorted(zip(logits, labels, strict=True)), key=lambda pair: pair[0])
    ]
    shares = [sum(group) / len(group) for _, group in groups]
    fitted = isotonic_regression(shares, weights=[len(group) for _, group in groups])
    firsts = fitted.blocks[:-1]
    return Isotonic(
        thresholds=tuple(groups[i][0] for i in firsts), probabilities=tuple(float(fitted.x[i]) for i in firsts)
    )


def _logistic(xs: Sequence[float], targets: Sequence[float]) -> tuple[float, float]:
    """The a and b that maximise the likelihood of sigmoid(a·x + b)."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    x, y = np.asarray(xs), np.asarray(targets)

    def loss(at: Any) -> tuple[float, Any]:
        z = at[0] * x + at[1]
        error = expit(z) - y
        return float(np.sum(np.logaddexp(0, z) - y * z)) / len(x), np.array([error @ x, error.sum()]) / len(x)

    found = minimize(loss, (0.0, 0.0), jac=True, method="BFGS", options={"gtol": 1e-9})
    return float(found.x[0]), float(found.x[1])
