"""P(correct) from all that is known of a candidate inside the graph: tests, logit, likelihood, agreement and turn.

A logistic regression, fitted on held-out problems. The paper ranks lexicographically instead (tests, then verifier,
section 4.1); `selector="fusion"` ranks by this probability.
"""

import math
from collections.abc import Sequence
from typing import Final

from mucode_agent.types import Candidate, ProblemError, Record
from mucode_agent.verifiers.calibration import sigmoid

FEATURES: Final = ("passed", "share_passed", "logit", "likelihood", "agreement", "turn")
"""All public tests pass · share that pass · verifier's logit · the generator's mean log-probability of its tokens ·
share of the turn that behaves alike · turn − 1."""
_PENALTY = 1e-2
_MOST_STEPS = 50


class Fusion(Record):
    """P = sigmoid(bias + Σ weight · (feature − centre)); a feature that is not known adds nothing."""

    weights: tuple[float, ...]
    """One per feature, in the features' own units."""
    centre: tuple[float, ...]
    """The features' means where it was fitted."""
    bias: float

    def probability(self, candidate: Candidate) -> float:
        terms = zip(self.weights, features_of(candidate), self.centre, strict=True)
        return sigmoid(self.bias + math.fsum(weight * (x - mean) for weight, x, mean in terms if x is not None))

    def judged(self, candidate: Candidate) -> Candidate:
        """`candidate` with this probability in its score."""
        if candidate.score is None:
            return candidate
        score = candidate.score.model_copy(update={"probability": self.probability(candidate)})
        return candidate.model_copy(update={"score": score})


def features_of(candidate: Candidate) -> tuple[float | None, ...]:
    """Those of FEATURES; the likelihood is None where the model gave none, or called tools, whose tokens count too."""
    report, sample = candidate.report, candidate.sample
    tests = len(report.results) if report else 0
    likelihood = None
    if sample.logprob is not None and sample.completion_tokens and not sample.tool_calls:
        likelihood = sample.logprob / sample.completion_tokens
    return (
        float(report.passed) if report else 0.0,
        report.tests_passed / tests if report and tests else 0.0,
        candidate.score.logit if candidate.score else 0.0,
        likelihood,
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
    features = np.array([features_of(candidate) for candidate in candidates], dtype=float)  # None becomes nan
    targets = np.array(labels, dtype=float)
    known = np.isfinite(features)
    centre = np.where(known, features, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    features = np.where(known, features, centre) - centre
    spread = features.std(axis=0)
    spread[spread == 0] = np.inf  # a feature that never varies says nothing
    design = np.hstack([features / spread, np.ones((len(targets), 1))])
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
    return Fusion(weights=tuple(map(float, scaled)), centre=tuple(map(float, centre)), bias=float(weights[-1]))
