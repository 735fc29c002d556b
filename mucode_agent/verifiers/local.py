"""A verifier in this process: a transformers checkpoint with one logit."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mucode_agent.types import Candidate, Problem, ProblemError, Score
from mucode_agent.verifiers.card import VerifierCard, read_verifier_card, start_logit, verifier_name

_REMEMBERED = 4096
"""Maximum number of programs with kept logits."""

if TYPE_CHECKING:
    from mucode_agent.verifiers.scoring import Scorer


class LocalVerifier:
    """R(x, y) by a sequence classifier with one logit: one of ours with its card, or a public reward model without.

    A public model reads the task and the program as a chat, through its own template, and gives no probability.
    """

    def __init__(self, model: str, *, device: str | None = None, dtype: str | None = None) -> None:
        """Raises ProblemError if there is no such directory, or its card is damaged or of another version."""
        if model.startswith(("/", ".", "~")) and not Path(model).expanduser().exists():
            raise ProblemError(f"there is no verifier {model!r}; give a directory that `train verifier` wrote")
        self.model, self._device, self._dtype = model, device, dtype
        self.card: VerifierCard | None = read_verifier_card(Path(model).expanduser())
        self._scorer: Scorer | None = None
        self._known = KnownLogits()
        self._loading = threading.Lock()

    @property
    def name(self) -> str:
        return verifier_name(self.model, self.card)

    @property
    def scorer(self) -> "Scorer":
        """The weights, loaded at first use. Raises ProblemError if they cannot be loaded."""
        with self._loading:
            if self._scorer is None:
                self._scorer = _load(self.model, self._device, self._dtype, chat=self.card is None)
            return self._scorer

    @property
    def calibrated_on(self) -> tuple[str, ...] | None:
        return calibrated_on(self.card)

    accept_threshold = None

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        """Raises ProblemError if a program is longer than the model can read; nothing is truncated."""
        return calibrated(self.card, candidates, self._known.logits(problem, candidates, self.scorer.logits))

    def close(self) -> None:
        """Frees the weights; the next score would load them again."""
        with self._loading:
            self._scorer = None


class KnownLogits:
    """Keeps the logits of the programs scored last, because a turn's candidates are scored again after every wave."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Problem, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def logits(
        self,
        problem: Problem,
        candidates: Sequence[Candidate],
        compute: Callable[[Problem, list[str]], Sequence[float]],
    ) -> list[float]:
        """One logit per candidate; each distinct new program is computed once."""
        codes = dict.fromkeys(candidate.code for candidate in candidates)
        with self._lock:
            known = {code: self._known[problem, code] for code in codes if (problem, code) in self._known}
        if new := [code for code in codes if code not in known]:
            known |= zip(new, compute(problem, new), strict=True)
            with self._lock:
                self._known.update(((problem, code), known[code]) for code in new)
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return [known[candidate.code] for candidate in candidates]


def calibrated_on(card: VerifierCard | None) -> tuple[str, ...] | None:
    return card.generators if card and card.calibration else None


def calibrated(card: VerifierCard | None, candidates: Sequence[Candidate], computed: Sequence[float]) -> list[Score]:
    """The candidates' scores from the logits that the weights computed."""
    start, platt = (card.start, card.calibration) if card else (None, None)
    logits = [start_logit(start, c.sample) + logit for c, logit in zip(candidates, computed, strict=True)]
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
