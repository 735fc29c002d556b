"""The card of a trained verifier: the file next to its weights with its quality, and the generator it holds for."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from mucode_agent.files import read_card
from mucode_agent.models.identity import generator_identity, same_generator
from mucode_agent.types import ProblemError, Record, Sample, Verifier
from mucode_agent.verifiers.calibration import Platt
from mucode_agent.verifiers.text import is_our_text, text_digest

CARD_VERSION: Literal[3] = 3
CARD = "mucode_verifier.json"


class Quality(Record):
    """Measured on programs of held-out problems, distinct by normal form."""

    problems: int
    candidates: int
    right: int
    """Number of right candidates."""
    pairwise_accuracy: float | None
    """Mean over problems of P(a right program scores above a wrong one); None if no problem has both."""
    auc: float | None
    """AUC over all candidates together."""
    brier: float | None = None
    expected_error: float | None = None
    """ECE of the calibrated probabilities."""
    isotonic_brier: float | None = None
    """The figures of isotonic regression, cross-fitted on halves of the problems like those of Platt scaling."""


class VerifierCard(Record):
    """A verifier's identity, calibration and quality."""

    card_version: Literal[3] = CARD_VERSION
    base: str
    """The checkpoint that it was trained from."""
    text: str
    """Digest of the input's wording; see `verifiers.text`."""
    loss: str
    seed: int
    training: dict[str, float | int | str | bool | None]
    """The training's settings."""
    data_sha256: str
    """Digest of the training problems, programs and labels."""
    calibration_sha256: str | None = None
    """Digest of the held-out ones."""
    generators: tuple[str, ...] = ()
    """The generator whose programs were used for the calibration; see `models.identity`."""
    start: Platt | None = None
    """Maps the generator's mean log-probability of a program to the logit that training started from; the weights
    compute what is added to it. None if training started from nothing.
    """
    calibration: Platt | None = None
    quality: Quality | None = None


def start_logit(start: Platt | None, sample: Sample) -> float:
    """The logit before the weights: the log-odds of the sample's mean log-probability; 0 (P = 1/2) if it has none."""
    if start is None or (mean := sample.mean_logprob) is None:
        return 0.0
    return start.scaled(mean)


def verifier_name(model: str, card: VerifierCard | None) -> str:
    """The directory's name with a digest of the card: a retrained verifier has another name. Else the model's."""
    if card is None:
        return model
    known = card.model_dump_json(exclude={"start"} if card.start is None else None)  # cards of earlier versions
    digest = hashlib.sha256(known.encode()).hexdigest()[:8]
    return f"{Path(model).name}@{digest}"


def calibration_mismatch(verifier: Verifier, model: Any) -> str | None:
    """Why the verifier's probabilities may not hold for `model`; None if they do, or if it gives none."""
    if not verifier.calibrated_on:
        return None
    ours = generator_identity(model)
    if any(same_generator(ours, known) for known in verifier.calibrated_on):
        return None
    known = ", ".join(verifier.calibrated_on)
    return f"the verifier {verifier.name!r} was calibrated on programs of {known}, not of {ours}"


def read_verifier_card(directory: Path) -> VerifierCard | None:
    """The card next to the weights; None if there is none, as for a public reward model.

    Raises ProblemError if it is damaged, of another version, or for another wording of the input.
    """
    card = read_card(directory / CARD, TypeAdapter(VerifierCard), of="verifier")
    if card is not None and not is_our_text(card.text):
        raise ProblemError(
            f"the verifier {directory} was trained on the input wording {card.text}, this version writes "
            f"{text_digest()}; train it again, or use the version that trained it"
        )
    return card
