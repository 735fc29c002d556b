"""The token usage of one request for n choices: in total for callbacks, in parts for the samples.

LangChain's usage handlers read only the first choice of a request, and only if it names its model. So the first message
carries the whole usage, and each message's own part is `mucode_usage`.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, Callbacks
from langchain_core.outputs import ChatGeneration, LLMResult

Part = tuple[int, int]
"""Prompt and completion tokens."""


def usage_parts(texts: Sequence[str], total: Mapping[str, Any]) -> list[Part]:
    """One request's usage in parts: prompt tokens go to the first choice, completion tokens by share of the text."""
    ends = list(accumulate((len(text) + 1 for text in texts), initial=0))
    completion = total.get("completion_tokens") or 0
    shares = [b - a for a, b in pairwise(round(completion * end / max(1, ends[-1])) for end in ends)]
    return [(0 if i else total.get("prompt_tokens") or 0, share) for i, share in enumerate(shares)]


class NamesModel(BaseCallbackHandler):
    """Writes the model's name into the first message, which LangChain does for requests of one choice only."""

    run_inline = True

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        name = (response.llm_output or {}).get("model_name")
        first = next((choice for choices in response.generations for choice in choices), None)
        if name and isinstance(first, ChatGeneration):
            first.message.response_metadata.setdefault("model_name", name)


def heard_first(handler: BaseCallbackHandler, callbacks: Callbacks) -> Callbacks:
    """The callbacks, preceded by a handler that gets every event first."""
    if isinstance(callbacks, BaseCallbackManager):
        manager = callbacks.copy()
        manager.handlers = [handler, *manager.handlers]
        return manager
    return [handler, *(callbacks or [])]
