"""The evidence verifier: P(correct) of a turn's candidates from their behaviour, compared with each other.

A logistic regression over `features`, with one set of weights for each combination of evidence that a group may have.
So missing tests, probes or log-probabilities need no substitute values. It reads the group and never the history:
one-step recoverability (paper, section 3.5), a property of states, holds. The paper's R(x, y) reads one program alone,
but a small model cannot see in a text whether it is right, while agreement among several programs shows it.
"""

import functools
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from mucode_agent.files import parsed, read_bytes
from mucode_agent.types import Candidate, LoadedVerifier, Problem, ProblemError, Record, Score
from mucode_agent.verifiers.calibration import sigmoid
from mucode_agent.verifiers.features import Evidence, evidence_of, feature_names, features

EVIDENCE_VERSION: Literal[1] = 1


class Weight(Record):
    """One feature: its term is weight · (value - mean)."""

    weight: Annotated[float, Field(allow_inf_nan=False)]
    mean: Annotated[float, Field(allow_inf_nan=False)]
    """The feature's mean on the fitting data."""


class Model(Record):
    """The weights for groups with this evidence."""

    evidence: Evidence
    intercept: Annotated[float, Field(allow_inf_nan=False)]
    weights: dict[str, Weight]
    """Terms by feature; see `features.feature_names`."""
    problems: int
    candidates: int
    """Number of candidates fitted on; a candidate counts in each group that was drawn with it."""

    def logits(self, rows: Sequence[Sequence[float]]) -> list[float]:
        terms = list(self.weights.values())
        return [
            self.intercept + sum(term.weight * (x - term.mean) for term, x in zip(terms, row, strict=True))
            for row in rows
        ]


class EvidenceQuality(Record):
    """Quality, cross-fitted over problems in groups of 5: no problem is judged by weights that were fitted on it."""

    evidence: Evidence
    problems: int
    candidates: int
    right: float
    """Share of right candidates."""
    pairwise_accuracy: float | None
    auc: float | None
    brier: float
    expected_error: float
    """ECE; see `metrics.calibration`."""


class Acceptance(Record):
    """The rule that accepts answers without public tests."""

    threshold: Annotated[float, Field(ge=0, le=1)]
    precision: float
    """Precision: share of accepted answers that are right, cross-fitted."""
    coverage: float
    """Share of problems with an accepted answer."""
    problems: int


class Measured(Record):
    """Quality of the unchanged weights on another generator's programs, on which they were not fitted."""

    generators: tuple[str, ...]
    """The generators' identities; see `models.identity`."""
    made: str
    """The command that measured it."""
    data: str
    """Where the problems come from, with their licence."""
    data_sha256: str
    problems: int
    quality: tuple[EvidenceQuality, ...]
    """In groups of 5."""
    precision: float
    """Precision without public tests at the card's own threshold: share of accepted answers that are right."""
    precision_interval: tuple[float, float]
    """Its 95 % Wilson interval over problems."""
    coverage: float
    """Share of problems with an accepted answer."""


class EvidenceCard(Record):
    """The whole verifier: its weights, the data it was fitted on, its quality. Stored as readable JSON."""

    kind: Literal["evidence"] = "evidence"
    version: Literal[1] = EVIDENCE_VERSION
    made: str
    """The command that fitted it."""
    data: str
    """Where the problems come from, with their licence."""
    data_sha256: str
    generators: tuple[str, ...]
    """The generators whose programs its probabilities were fitted on; see `models.identity`."""
    language_model: str | None = None
    """The verifier whose logit is one of the features, as `load_verifier` reads it."""
    models: tuple[Model, ...]
    quality: tuple[EvidenceQuality, ...] = ()
    acceptance: Acceptance | None = None
    measured: Annotated[tuple[Measured, ...], Field(exclude_if=lambda value: not value)] = ()
    """Other generators for whose programs the card holds: the promised precision is within the measured interval."""

    def __str__(self) -> str:
        lines = [
            f"{' + '.join(q.evidence) or 'duplicates alone'}: {q.problems} problems, AUC {q.auc or 0:.3f}, "
            f"Brier {q.brier:.3f}, ECE {q.expected_error:.3f}"
            for q in self.quality
        ]
        if (rule := self.acceptance) is not None:
            lines.append(
                f"without tests an answer is accepted from P(correct) {rule.threshold:.2f} on: "
                f"{rule.precision:.1%} right, {rule.coverage:.1%} of problems"
            )
        else:
            lines.append("no threshold keeps the precision: nothing is accepted without tests")
        lines += [
            f"measured on {', '.join(found.generators)}: {found.precision:.1%} "
            f"[{found.precision_interval[0]:.1%}, {found.precision_interval[1]:.1%}] of accepted answers right, "
            f"{found.coverage:.1%} of {found.problems} problems"
            for found in self.measured
        ]
        return "\n".join(lines)


class EvidenceVerifier:
    """Scores a turn's candidates together; needs neither a language model nor torch."""

    def __init__(self, card: EvidenceCard, *, name: str, language_model: LoadedVerifier | None = None) -> None:
        self.card = card
        self.name = f"{name}@{hashlib.sha256(card.model_dump_json().encode()).hexdigest()[:8]}"
        self.language_model = language_model
        self._models = {model.evidence: model for model in card.models}

    @property
    def calibrated_on(self) -> tuple[str, ...]:
        return (*self.card.generators, *(name for found in self.card.measured for name in found.generators))

    @property
    def accept_threshold(self) -> float | None:
        return self.card.acceptance.threshold if self.card.acceptance else None

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        """One score per candidate of one turn, in order. Raises what the language-model verifier raises."""
        logits = None
        if self.language_model is not None:
            logits = [score.logit for score in self.language_model.score(problem, candidates)]
        return self.scores(problem, candidates, logits)

    def scores(
        self, problem: Problem, candidates: Sequence[Candidate], logits: Sequence[float] | None = None
    ) -> list[Score]:
        """Like `score`, but with given logits of the language-model verifier."""
        if not candidates:
            return []
        evidence = evidence_of(candidates, logits)
        model = self._models.get(evidence) or self._nearest(evidence)
        rows = features(problem, candidates, model.evidence, logits)
        return [Score(logit=logit, probability=sigmoid(logit)) for logit in model.logits(rows)]

    def close(self) -> None:
        if self.language_model is not None:
            self.language_model.close()

    def _nearest(self, evidence: Evidence) -> Model:
        """The weights that use most of the available evidence, and no other."""
        usable = [model for model in self.card.models if set(model.evidence) <= set(evidence)]
        if not usable:
            had = ", ".join(evidence) or "no evidence"
            raise ProblemError(
                f"the verifier {self.name} has no weights for candidates with {had}; fit it on such traces"
            )
        return max(usable, key=lambda model: len(model.evidence))


def read_evidence_card(path: Path) -> EvidenceCard:
    """Raises ProblemError if the file cannot be read, or is no card of this version."""
    return _parsed(read_bytes(path, remedy="give a card of `train verifier`"), str(path))


@functools.cache
def shipped_card() -> EvidenceCard:
    """The card in this package."""
    return _parsed(resources.files("mucode_agent.verifiers").joinpath("evidence.json").read_bytes(), "evidence.json")


_CARD = TypeAdapter(EvidenceCard)


def _parsed(text: bytes, place: str) -> EvidenceCard:
    wrong = f"is no evidence verifier of version {EVIDENCE_VERSION}"
    card = parsed(_CARD, text, place, wrong=wrong, remedy="fit it again with `train verifier`")
    for model in card.models:
        if tuple(model.weights) != feature_names(model.evidence):
            raise ProblemError(
                f"{place} weighs other features than this version computes; fit it again with `train verifier`"
            )
    return card
