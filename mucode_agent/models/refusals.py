"""Reads a model's error: an option that the server refuses, a prompt that is too long, or a requested pause.

Every provider has its own classes and words. They share the status and the text, body included. The wordings were taken
from the public reports and sources of OpenAI, Azure, vLLM, llama.cpp, SGLang, TGI, Mistral, Groq, Gemini and Anthropic.
"""

import email.utils
import json
import re
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from langchain_core.exceptions import ContextOverflowError

from mucode_agent.types import Sampling

REFUSALS = (400, 403, 405, 422, 501)
"""HTTP statuses with which servers refuse an option."""
LONGEST_PAUSE_S = 120.0
"""Longest pause, in seconds, that a server may request; a longer one is an error."""

_OPTIONS = {name: rf"\b{name}\b" for name in Sampling.model_fields} | {
    "n": r"\bn\b|(completion|num_?|multiple |one )choices?\b|completion choice|(multiple|one) candidates?\b",
    "seed": r"\b(random_)?seed\b",
    "logprobs": r"(top_)?log_?prob\w*",
    "max_tokens": r"\bmax_(completion_)?tokens\b",
}
_RANGE = re.compile(
    r"(less|greater|smaller|larger|lower|higher) than|between|at (least|most)|too (large|small|long|high|low)|"
    r"in the range|out of range|exceed|maximum|minimum|positive|non-negative",
    re.IGNORECASE,
)
"""A value out of range is the caller's mistake: the option itself is known."""
_OVERFLOW = re.compile(
    r"context[ _-]?(length|size|window|limit)|exceed_context|prompt (is )?too long|maximum model length|max_model_len|"
    r"max_tokens must be at least 1, got -|reduce the length of the (messages|prompt|input)|max_new_tokens`? must be|"
    r"input tokens? (count )?.{0,40}exceed|ContextWindowExceeded|(input|prompt|request)s? (is|are) too long|"
    r"\b(input|prompt|request)s?( tokens?)? exceed\w*.{0,30}(token limit|model'?s limit|length)|range of input length|"
    r"tokens in request more than|inputs? must have (less|fewer) than \d+ tokens",
    re.IGNORECASE,
)


class Refusal(NamedTuple):
    """The parts of an error that servers have in common."""

    status: int | None
    text: str
    """The error and the body of its response, on one line."""
    named: frozenset[str]
    """The parameters that the body names in a field of its own."""

    def options(self, sent: Collection[str]) -> set[str]:
        """The `sent` options that the server refuses."""
        if self.status not in REFUSALS and "unexpected keyword" not in self.text:
            return set()
        where = " ".join(_words(self.named)) or self.text
        found = {option for option in sent if re.search(_OPTIONS[option], where, re.IGNORECASE)}
        return found & {"n", "logprobs"} if _RANGE.search(self.text) else found


def read_refusal(error: BaseException) -> Refusal:
    """Status, text and named parameters of any error."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    body = getattr(error, "body", None)
    try:
        written = str(response.text) if response is not None else ""
    except Exception:  # noqa: BLE001 - a body that was never read is no text
        written = ""
    if body is None and written:
        try:
            body = json.loads(written)
        except ValueError:
            body = None
    said = str(error)
    text = said if not written or written in said else f"{said} {written}"
    return Refusal(status if isinstance(status, int) else None, " ".join(text.split()), frozenset(_parameters(body)))


def overflows(error: BaseException, refusal: Refusal) -> bool:
    """Whether the prompt and its answer do not fit the model's context."""
    if isinstance(error, ContextOverflowError):
        return True
    if refusal.status not in (None, 400, 413, 422, 500):
        return False
    return _OVERFLOW.search(refusal.text) is not None


def pause_s(error: BaseException) -> float | None:
    """Seconds that a busy server asks to wait (header Retry-After); None if it asks for none, or for too long."""
    response = getattr(error, "response", None)
    if getattr(response, "status_code", None) not in (429, 503):
        return None
    headers = getattr(response, "headers", None) or {}
    given = headers.get("retry-after") or ""
    try:
        seconds = float(given)
    except ValueError:
        at = email.utils.parsedate_tz(given)
        if at is None:
            return None
        seconds = email.utils.mktime_tz(at) - time.time()
    return max(0.0, seconds) if seconds <= LONGEST_PAUSE_S else None


def _words(names: Collection[str]) -> set[str]:
    """The names that servers use for one of our options."""
    return {name for name in names if any(re.fullmatch(words, name) for words in _OPTIONS.values())}


def _parameters(body: Any) -> Iterator[str]:
    """OpenAI's `param`, and the last part of pydantic's `loc`."""
    if isinstance(body, dict):
        if isinstance(body.get("param"), str):
            yield body["param"]
        if isinstance(body.get("loc"), list) and body["loc"]:
            yield str(body["loc"][-1])
        for part in body.values():
            yield from _parameters(part)
    elif isinstance(body, list):
        for part in body:
            yield from _parameters(part)
