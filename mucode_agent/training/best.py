"""What a training came to: pairs of generator and verifier, and the best of them on validation."""

from pathlib import Path

from pydantic import TypeAdapter

from mucode_agent.evaluation.metrics import Estimate
from mucode_agent.evaluation.results import Results
from mucode_agent.evaluation.store import parsed
from mucode_agent.types import ProblemError, Record


class Pair(Record):
    """A generator with the verifier that selects among its programs, measured on the validation problems."""

    number: int
    """0 is the base; generator i was trained in round i."""
    generator: str
    verifier: str
    results: Path
    """The directory of its validation run."""


class Best(Record):
    """What the training came to: `best.json`."""

    pair: Pair
    chosen_by: str
    accuracy: Estimate
    pairs: tuple[Pair, ...]


def read_results(directory: Path) -> Results:
    path = directory / "results.json"
    try:
        return parsed(TypeAdapter(Results), path.read_bytes(), str(path))
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}") from None
