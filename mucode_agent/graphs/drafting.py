"""Candidates of a generator that may run code while it writes: the tool loop inside the generate node.

Each candidate is a separate conversation, which ends with the first answer that calls no tool. Only that answer is
kept; the tokens before it are counted, their text is dropped.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool

from mucode_agent.calls import Call
from mucode_agent.models.sampling import ask, of_candidate, side_by_side
from mucode_agent.types import ContextOverflowError, InfrastructureError, Sample

LAST = "No calls are left: answer with the code now."


async def draft(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    tool: BaseTool,
    calls: int,
    n: int,
    seed: int,
    config: RunnableConfig,
    **options: Any,
) -> list[Sample]:
    """Exactly n answers to the messages, each after at most `calls` calls of the tool; all requests of answer i have
    the seed `seed + i`.

    A sample's tokens are those of all its requests; its text and log-probability are those of the answer. If a model
    still calls a tool when no call is left, the text of that message is its answer. Raises as `sample` does, and
    ProblemError where the model cannot call tools.
    """

    async def one(index: int) -> Sample:
        conversation, own = _Conversation(messages, tool, calls), of_candidate(config, index)
        while True:
            request = conversation.messages
            try:
                drawn = await ask(model, request, tools=[tool], seed=seed + index, config=own, **options)
            except ContextOverflowError:
                return conversation.cut_short()
            for call in (asked := conversation.asked(*drawn)):
                refusal = conversation.refusal(call)
                conversation.add_result(refusal or await Call(tool.invoke, tool.ainvoke, call, config))
            if not asked:
                return conversation.answer()

    async def outcome(index: int) -> Sample | InfrastructureError:
        try:
            return await one(index)
        except InfrastructureError as error:
            return error

    return _kept(await side_by_side(outcome, range(n), config))


def _kept(outcomes: Sequence[Sample | InfrastructureError]) -> list[Sample]:
    """All answers; else raises the first failure, with the answers that were drawn."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    for outcome in outcomes:
        if isinstance(outcome, InfrastructureError):
            outcome.samples = tuple(answers)
            raise outcome
    return answers


class _Conversation:
    """The conversation of one candidate, and how many calls are left."""

    def __init__(self, messages: Sequence[BaseMessage], tool: BaseTool, calls: int) -> None:
        self.messages, self._tool, self._most, self._left = list(messages), tool, calls, calls
        self._drawn: list[Sample] = []

    def asked(self, sample: Sample, message: AIMessage) -> list[dict[str, Any]]:
        """The calls in a message; each needs an answer. None if the message is the final answer."""
        self._drawn.append(sample)
        calls = [*message.tool_calls, *message.invalid_tool_calls] if self._left else []
        if calls:
            self.messages.append(message)
        return [{**call, "id": call["id"] or "", "type": "tool_call"} for call in calls]

    def refusal(self, call: dict[str, Any]) -> ToolMessage | None:
        """The answer to a call that cannot be run."""
        if not self._left:
            words = LAST
        elif call["name"] != self._tool.name:
            words = f"There is no tool {call['name']}; call {self._tool.name}."
        elif not isinstance(call["args"], dict):
            words = f"The arguments are no JSON object: {str(call['args'])[:200]}"
        else:
            return None
        return ToolMessage(words, tool_call_id=call["id"], status="error")

    def add_result(self, result: ToolMessage) -> None:
        if self._left == 1:
            result = result.model_copy(update={"content": f"{result.text}\n\n{LAST}"})
        self._left = max(0, self._left - 1)
        self.messages.append(result)

    def cut_short(self) -> Sample:
        """The answer of a conversation that outgrew the model's context: its last text. Raises if there is none."""
        if not self._drawn:
            raise
        return self.answer()

    def answer(self) -> Sample:
        return self._drawn[-1].model_copy(
            update={
                "prompt_tokens": sum(sample.prompt_tokens for sample in self._drawn),
                "completion_tokens": sum(sample.completion_tokens for sample in self._drawn),
                "tool_calls": self._most - self._left,
            }
        )
