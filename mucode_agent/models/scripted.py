"""A chat model that answers from a script: for tests and examples, without weights, server or key."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, InstanceOf, PrivateAttr

Reply = str | AIMessage
Script = Callable[[list[BaseMessage], dict[str, Any]], Reply]
"""From the messages and the request's options (`seed`, `temperature`, `tools`, …) to a reply."""


class ScriptedModel(BaseChatModel):
    """Returns the replies of a script, and records its requests.

        ScriptedModel(replies=["first answer", "second answer"])
        ScriptedModel(replies=lambda messages, options: f"answer number {options['seed']}")

    An exception in the list is raised when its place comes. With `native_n` the n samples of a turn come in one
    request, so their order does not depend on threads.
    """

    replies: Sequence[str | InstanceOf[AIMessage] | InstanceOf[BaseException]] | Script
    """Replies in order, over all requests; the last one repeats. Or a function that makes each reply."""
    model: str = "scripted"
    """The name in traces."""
    native_n: bool = True
    """Whether one request may ask for n replies."""
    tools: bool = False
    """Whether tools may be bound; the options then contain their names as `tools`."""
    seen: list[list[BaseMessage]] = Field(default_factory=list)
    """The messages of each reply so far."""
    seeds: list[int | None] = Field(default_factory=list)
    """The seed of each reply so far."""
    _count: Iterator[int] = PrivateAttr(default_factory=itertools.count)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Raises NotImplementedError unless `tools` is set, like a model without tool calls."""
        if not self.tools:
            raise NotImplementedError("set tools=True for a ScriptedModel that calls tools")
        return self.bind(tools=[getattr(tool, "name", tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain gives it
        *,
        n: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> ChatResult:
        replies = []
        for i in range(n):
            own = None if seed is None else seed + i
            self.seen.append(messages)
            self.seeds.append(own)
            replies.append(self._reply(messages, {**options, "seed": own, "stop": stop}))
        return ChatResult(generations=[ChatGeneration(message=reply) for reply in replies])

    def _reply(self, messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        if callable(self.replies):
            reply: Reply | BaseException = self.replies(messages, options)
        else:
            reply = self.replies[min(next(self._count), len(self.replies) - 1)]
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, AIMessage):
            return reply.model_copy()  # LangChain writes an id into the message
        return AIMessage(reply, usage_metadata={"input_tokens": 10, "output_tokens": 5, "total_tokens": 15})
