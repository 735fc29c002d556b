"""A verifier in this process: a transformers checkpoint with one logit."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mucode_agent.types import Problem, ProblemError, Score
from mucode_agent.verifiers.card import VerifierCard, read_card, verifier_name

if TYPE_CHECKING:
    from mucode_agent.verifiers.scoring import Scorer


class LocalVerifier:
    """R(x, y) by a sequence classifier with one logit: ours with its card, or any public reward model without one.

    A public model reads the task and the program as a chat, through its own template, and gives no probability.
    """

    def __init__(self, model: str, *, device: str | None = None, dtype: str | None = None) -> None:
        """Raises ProblemError where there is no such directory, or its card is damaged or of another version."""
        if model.startswith(("/", ".", "~")) and not Path(model).expanduser().exists():
            raise ProblemError(f"there is no verifier {model!r}; give a directory that `train verifier` wrote")
        self.model, self._device, self._dtype = model, device, dtype
        self.card: VerifierCard | None = read_card(Path(model).expanduser())
        self._scorer: Scorer | None = None
        self._loading = threading.Lock()

    @property
    def name(self) -> str:
        return verifier_name(self.model, self.card)

    @property
    def scorer(self) -> "Scorer":
        """The weights, loaded if they were not. Raises ProblemError where they cannot be."""
        with self._loading:
            if self._scorer is None:
                self._scorer = _load(self.model, self._device, self._dtype, chat=self.card is None)
            return self._scorer

    def score(self, problem: Problem, codes: Sequence[str]) -> list[Score]:
        """Raises ProblemError where a program is longer than the model reads; nothing is cut off."""
        return calibrated(self.card, self.scorer.logits(problem, codes))


def calibrated(card: VerifierCard | None, logits: Sequence[float]) -> list[Score]:
    platt = card.calibration if card else None
    return [Score(logit=logit, probability=platt.probability(logit) if platt else None) for logit in logits]


def _load(model: str, device: str | None, dtype: str | None, *, chat: bool) -> "Scorer":
    from mucode_agent.models.chat import prepare_torch

    try:
        prepare_torch()
        from mucode_agent.verifiers.scoring import load_scorer
    except ImportError as error:
        raise ProblemError(
            f"the verifier {model!r} runs in this process and needs {error.name}: pip install 'mucode-agent[local]'"
        ) from error
    return load_scorer(model, device, dtype, chat=chat)
