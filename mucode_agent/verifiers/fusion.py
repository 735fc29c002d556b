"""P(correct) from all that is known of a candidate inside the graph: tests, logit, agreement and turn together.

A logistic regression, fitted on held-out problems. The paper ranks lexicographically instead (tests, then verifier,
section 4.1); `selector="fusion"` ranks by this probability.
"""

import math
from collections.abc import Sequence
from typing import Final

from mucode_agent.types import Candidate, ProblemError, Record
from mucode_agent.verifiers.calibration import sigmoid

FEATURES: Final = ("passed", "share_passed", "logit", "agreement", "turn")
"""All public tests pass · share that pass · verifier's logit · share of the turn that behaves alike · turn − 1."""
_PENALTY = 1e-2
_MOST_STEPS = 50


class Fusion(Record):
    """Weights of the logistic regression, one per feature, in the features' own units."""

    weights: tuple[float, ...]
    bias: float

    def probability(self, candidate: Candidate) -> float:
        features = features_of(candidate)
        return sigmoid(self.bias + math.fsum(w * x for w, x in zip(self.weights, features, strict=True)))

    def judged(self, candidate: Candidate) -> Candidate:
        """`candidate` with this probability in its score."""
        if candidate.score is None:
            return candidate
        score = candidate.score.model_copy(update={"probability": self.probability(candidate)})
        return candidate.model_copy(update={"score": score})


def features_of(candidate: Candidate) -> tuple[float, ...]:
    report = candidate.report
    tests = len(report.results) if report else 0
    return (
        float(report.passed) if report else 0.0,
        report.tests_passed / tests if report and tests else 0.0,
        candidate.score.logit if candidate.score else 0.0,
        candidate.agreement or 0.0,
        float(candidate.turn - 1),
    )


def fit_fusion(candidates: Sequence[Candidate], labels: Sequence[bool]) -> Fusion:
    """The penalised maximum-likelihood weights, by Newton's method on standardised features.

    Raises ProblemError where the labels are all alike.
    """
    import numpy as np

    if not any(labels) or all(labels):
        raise ProblemError("a fusion needs right and wrong candidates; give more held-out data")
    features = np.array([features_of(candidate) for candidate in candidates])
    targets = np.array(labels, dtype=float)
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = np.inf  # a feature that never varies says nothing
    design = np.hstack([(features - centre) / spread, np.ones((len(targets), 1))])
    penalty = np.diag([_PENALTY] * len(FEATURES) + [0.0]) * len(targets)
    weights = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        probabilities = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (targets - probabilities) - penalty @ weights
        curvature = design.T @ (design * (probabilities * (1 - probabilities))[:, None]) + penalty
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(curvature)), gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-9:
            break
    scaled = weights[:-1] / spread
    return Fusion(weights=tuple(map(float, scaled)), bias=float(weights[-1] - (scaled * centre).sum()))
