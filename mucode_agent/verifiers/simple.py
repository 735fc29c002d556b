"""Verifiers without training: none at all, and single signals as baselines of the evidence verifier."""

import math
from collections.abc import Sequence

from mucode_agent.types import Candidate, Problem, Score
from mucode_agent.verifiers.features import agreement


class _Uncalibrated:
    calibrated_on = None
    accept_threshold = None

    def close(self) -> None:
        """Does nothing: it owns no resource."""


class NoVerifier(_Uncalibrated):
    """Scores every program equally, so the tests alone select."""

    name = "none"

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        del problem
        return [Score(logit=0.0)] * len(candidates)


class AgreementVerifier(_Uncalibrated):
    """The logit of the share of the others that return the same, input by input: a soft majority vote."""

    name = "agreement"

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        del problem
        shares = agreement([c.report.behaviour if c.report else () for c in candidates])
        return [Score(logit=math.log(share / (1 - share))) for share in shares]


class LogProbVerifier(_Uncalibrated):
    """The generator's own mean log-probability of the reply's tokens; the lowest value if the model returns none."""

    name = "logprob"

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        del problem
        found = [
            c.sample.logprob / c.sample.completion_tokens
            if c.sample.logprob is not None and c.sample.completion_tokens
            else None
            for c in candidates
        ]
        lowest = min((value for value in found if value is not None), default=0.0)
        return [Score(logit=lowest if value is None else value) for value in found]
