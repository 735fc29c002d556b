"""A verifier behind vLLM's `/classify`, with the same text and calibration as in process."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from mucode_agent.types import Candidate, InfrastructureError, Problem, ProblemError, Score
from mucode_agent.verifiers.card import VerifierCard, read_verifier_card, verifier_name
from mucode_agent.verifiers.local import KnownLogits, calibrated, calibrated_on
from mucode_agent.verifiers.text import verifier_text

_BAD_REQUEST = range(400, 500)


class ServedVerifier:
    """R(x, y) by `vllm serve DIRECTORY --runner pooling`. It requests raw logits and applies the card's calibration.

    A server with its own `logit_mean` and `logit_sigma` would calibrate twice: start it without them.
    """

    def __init__(self, model: str, url: str, *, timeout: float = 600) -> None:
        """`model` is the served name; if it is also a directory with a card, the card gives the calibration."""
        self.model = model
        self.url = url.rstrip("/").removesuffix("/v1")
        self.card: VerifierCard | None = read_verifier_card(Path(model).expanduser()) if model else None
        self._client = httpx.Client(timeout=timeout)
        self._known = KnownLogits()
        self._gives_logits = False

    @property
    def name(self) -> str:
        return verifier_name(self.model or self.url, self.card)

    @property
    def calibrated_on(self) -> tuple[str, ...] | None:
        return calibrated_on(self.card)

    accept_threshold = None

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        """Raises InfrastructureError if the server is dead, refuses or answers with something else."""
        return calibrated(self.card, candidates, self._known.logits(problem, candidates, self._ask))

    def _ask(self, problem: Problem, codes: Sequence[str]) -> list[float]:
        request = {
            "input": [verifier_text(problem, code) for code in codes],
            "use_activation": False,
            **({"model": self.model} if self.model else {}),
        }
        logits = self._logits(self._post(request), len(codes))
        self._check_raw(request, logits)
        return logits

    def close(self) -> None:
        self._client.close()

    def _check_raw(self, request: dict[str, Any], logits: Sequence[float]) -> None:
        """Logits may all lie between 0 and 1 by chance; the same request with the activation shows whether they are."""
        if self._gives_logits or not logits:
            return
        if all(0 < logit <= 1 for logit in logits):
            activated = self._logits(self._post({**request, "use_activation": True}), len(logits))
            if all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(logits, activated, strict=True)):
                raise InfrastructureError(
                    f"the verifier at {self.url} ignores use_activation: it answers with probabilities ({logits[0]:g} "
                    "and more), which are no logits; serve it with a vLLM that knows this parameter"
                )
        self._gives_logits = True

    def _post(self, request: dict[str, Any]) -> Any:
        try:
            response = self._client.post(f"{self.url}/classify", json=request)
            if response.status_code in _BAD_REQUEST and "maximum" in response.text:
                raise ProblemError(
                    f"a program is longer than the verifier at {self.url} reads ({response.text.strip()[:200]}): "
                    "serve it with a longer --max-model-len"
                )
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if isinstance(error, ProblemError):
                raise
            body = error.response.text.strip()[:200] if isinstance(error, httpx.HTTPStatusError) else str(error)
            raise InfrastructureError(
                f"the verifier at {self.url} gave no scores ({type(error).__name__}: {body}): "
                "start it with `vllm serve DIRECTORY --runner pooling`, or fix the URL"
            ) from error

    def _logits(self, answer: Any, count: int) -> list[float]:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            logits = [float(logit) for row in rows for logit in row["probs"]]
        except (KeyError, TypeError, ValueError):
            logits = []
        if len(logits) != count or not all(map(math.isfinite, logits)):
            raise InfrastructureError(
                f"the verifier at {self.url} answered {count} programs with {len(logits)} usable scores: "
                "serve a model with one logit by `vllm serve DIRECTORY --runner pooling`"
            )
        return logits
