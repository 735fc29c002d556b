"""A reply's log-probabilities, summed over all its tokens and over those of its code."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

_FENCED = re.compile(r"^[ \t]*(```+|~~~+)[^\n]*\n(.*?)(?:^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)


class LogProbs(NamedTuple):
    """Sums of natural logarithms, under the model itself at temperature 1, with the number of tokens in each."""

    logprob: float | None
    tokens: int
    code_logprob: float | None
    code_tokens: int
    """Sum over the tokens that begin inside a fenced block; over all tokens if the reply has no fence."""


def summed(pieces: Sequence[str], logprobs: Sequence[float]) -> LogProbs:
    """The sums for one reply, given as its tokens' texts and log-probabilities, both in order and of equal length."""
    starts = list(accumulate(map(len, pieces), initial=0))[:-1]
    spans = [found.span(2) for found in _FENCED.finditer("".join(pieces))]
    inside = [
        logprob
        for start, logprob in zip(starts, logprobs, strict=True)
        if not spans or any(a <= start < b for a, b in spans)
    ]
    return LogProbs(sum(logprobs), len(logprobs), sum(inside), len(inside))


def of_tokens(tokens: Sequence[Mapping[str, Any]]) -> LogProbs | None:
    """Those of OpenAI's list of tokens; None where one of them has no text or is no finite number."""
    pieces, values = [token.get("token") for token in tokens], [token.get("logprob") for token in tokens]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    numbers = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return summed(texts, numbers) if len(texts) == len(numbers) == len(tokens) else None


def logprobs_of(facts: Mapping[str, Any]) -> LogProbs | None:
    """The sums for a message, from its `response_metadata`: sums that our models put there, or OpenAI's token list."""
    if (known := facts.get("mucode_logprobs")) is not None:
        return LogProbs(*known)
    tokens = (facts.get("logprobs") or {}).get("content")
    return of_tokens(tokens) if tokens else None
