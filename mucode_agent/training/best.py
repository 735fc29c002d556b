"""The result of a training: pairs of generator and verifier, and the best of them on validation."""

from pathlib import Path

from mucode_agent.metrics import Estimate
from mucode_agent.types import Record


class Pair(Record):
    """A generator with the verifier that selects among its programs, measured on the validation problems."""

    number: int
    """0 is the base; generator i was trained in round i."""
    generator: str
    verifier: str
    results: Path
    """The directory of its validation run."""


class Best(Record):
    """The result of the training: `best.json`."""

    pair: Pair
    chosen_by: str
    accuracy: Estimate
    pairs: tuple[Pair, ...]
