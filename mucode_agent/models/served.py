"""`ServedChatModel`: a LangChain chat model behind any OpenAI-compatible server, such as vLLM."""

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai.chat_models.base import BaseChatOpenAI

from mucode_agent.models.base import AnswersOnce
from mucode_agent.models.logprobs import of_tokens
from mucode_agent.models.usage import usage_parts

_PROMPT_ONLY: dict[str, Any] = {"n": 1, "max_tokens": 1, "logprobs": False}


class ServedChatModel(AnswersOnce, BaseChatOpenAI):
    """Speaks chat completions with `max_tokens`, the name that every compatible server knows.

    With `native_n`, one request draws n choices that share the prompt's computation, and choice i has the seed
    `seed + i`: what vLLM does (`vllm/v1/engine/parallel_sampling.py`). The first message carries the usage of the whole
    request, and each message's own part is `mucode_usage`.
    """

    native_n: bool = False
    """Whether the server honours n and returns log-probabilities; their count is each choice's length."""
    left_out: frozenset[str] = frozenset()
    """Options that the server refuses, and that requests leave out; `max_tokens` then goes by its newer name."""

    @property
    def _llm_type(self) -> str:
        return "served-chat"

    async def _answer(self, messages: list[BaseMessage], stop: list[str] | None = None, **options: Any) -> ChatResult:
        if self._reads_prompt_first(options):
            await super()._answer(messages, **_PROMPT_ONLY)
        return await super()._answer(messages, stop, **options)

    def _reads_prompt_first(self, options: dict[str, Any]) -> bool:
        """Whether to send a request of one token first, to fill the server's prefix cache.

        vLLM starts the n choices of one request in the same step, and each reads the whole prompt, because the cache
        serves only later requests.
        """
        return self.native_n and (options.get("n") or 1) > 1

    def _get_request_payload(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(*args, **kwargs)
        if self.native_n and not payload.get("stream"):
            payload.setdefault("logprobs", True)
        for option in self.left_out & payload.keys():
            value = payload.pop(option)
            if option == "max_tokens":
                payload["max_completion_tokens"] = value
        return payload

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result: ChatResult = super()._create_chat_result(response, generation_info)
        result.llm_output = {
            **(result.llm_output or {}),
            "model_name": getattr(response, "model", None) or self.model_name,
        }
        # The parent gives every choice the same dict, and the usage of all choices together.
        total = (result.llm_output or {}).get("token_usage") or {}
        parts = usage_parts([generation.text for generation in result.generations], total)
        for i, generation in enumerate(result.generations):
            facts = dict(generation.generation_info or {})
            tokens = (facts.get("logprobs") or {}).get("content")
            if not (tokens and tokens[0].get("top_logprobs")):  # the sums below say all that is in the others
                facts.pop("logprobs", None)
            if tokens is not None:
                parts[i] = (parts[i][0], len(tokens))
                facts["mucode_logprobs"] = of_tokens(tokens)
            if i and isinstance(generation.message, AIMessage):
                generation.message.usage_metadata = None
            generation.generation_info = {**facts, "mucode_usage": parts[i]} if total else facts
        return result
