"""What our chat models have in common: the answer is written once, for threads and for event loops."""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from mucode_agent.calls import Call, in_loop, in_thread


class AnswersOnce(BaseChatModel):
    """A chat model of which `_answer` is the only method to write. Before another model's class it changes that one."""

    async def _answer(self, messages: list[BaseMessage], stop: list[str] | None = None, **options: Any) -> ChatResult:
        """The answers to the messages, in a coroutine of `calls`: those of the class that comes next.

        `options` are the request's: `n`, `seed`, `temperature` and so on, and LangChain's `run_manager`.
        """
        answer: ChatResult = await Call(super()._generate, super()._agenerate, messages, stop, **options)  # type: ignore[safe-super]
        return answer

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return in_thread(self._answer(messages, stop, run_manager=run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await in_loop(self._answer(messages, stop, run_manager=run_manager, **kwargs))
