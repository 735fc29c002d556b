"""The verifier of a loop's round with kind `evidence`: fitted on the rollouts in seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mucode_agent.files import write_whole
from mucode_agent.training.data import ProblemAttempts, generators_of, read_attempts
from mucode_agent.training.evidence import Origin, card_of, with_behaviour
from mucode_agent.types import Sandbox

CARD = "evidence.json"


def round_verifier(kind: str, directory: Path) -> str:
    """The argument of `load_verifier` for a round's verifier, by the kind in `LoopVerifierSettings`."""
    match kind:
        case "evidence":
            return str(directory / CARD)
        case "none":
            return "none"
    return str(directory)


def fit_round(
    rollouts: Sequence[Path], place: Path, *, sandbox: Sandbox, source: str, command: str
) -> tuple[dict[str, Any], str]:
    """Writes the evidence verifier of all rollouts so far into `place`; returns the facts and words of its stage.

    Programs without recorded behaviour are run on their probes. Raises ProblemError if fewer than 20 problems have
    right or wrong programs.
    """
    data: list[ProblemAttempts] = [entry for entry in read_attempts(rollouts) if entry.attempts]
    data = with_behaviour(data, sandbox)
    card = card_of(data, Origin(made=command, data=source, generators=generators_of(rollouts)))
    place.mkdir(exist_ok=True)
    write_whole(place / CARD, card.model_dump_json(indent=1) + "\n")
    full = max(card.quality, key=lambda quality: len(quality.evidence))
    facts = {"quality": full.model_dump(mode="json"), "data_sha256": card.data_sha256}
    pairs = full.pairwise_accuracy
    quality_words = f", cross-fitted pairs {100 * pairs:.1f} %" if pairs is not None else ""
    return facts, f"evidence of {full.problems} problems{quality_words}"
