"""The scripted model: what users' tests may rely on."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_tests.unit_tests import ChatModelUnitTests

from mucode_agent import InfrastructureError, ScriptedModel
from mucode_agent.models.sampling import asample, sample

PROMPT: Any = [HumanMessage("Write f.")]


class TestTheScriptedModelKeepsLangChainsContract(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ScriptedModel]:
        return ScriptedModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"replies": ["an answer"]}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


@tool
def look(place: str) -> str:
    """Looks."""
    return place


def texts(model: Any, n: int, seed: int = 0) -> list[str]:
    return [drawn.text for drawn in sample(model, PROMPT, n=n, seed=seed)]


@pytest.mark.parametrize("native_n", [True, False])
def test_replies_come_in_order_over_all_requests_and_the_last_one_repeats(native_n: bool) -> None:
    model = ScriptedModel(replies=["a", "b", "c"], native_n=native_n)
    assert [texts(model, 1) for _ in range(5)] == [["a"], ["b"], ["c"], ["c"], ["c"]]
    assert texts(ScriptedModel(replies=["a", "b", "c"]), 4) == ["a", "b", "c", "c"]


def test_a_function_sees_the_messages_and_the_options_of_each_reply() -> None:
    model = ScriptedModel(replies=lambda messages, options: f"{messages[0].content} {options['seed']}")
    assert texts(model, 2, seed=7) == ["Write f. 7", "Write f. 8"]
    assert texts(model.bind(seed=1), 1, seed=9) == ["Write f. 9"]


def test_it_remembers_what_it_was_asked() -> None:
    model = ScriptedModel(replies=["a"])
    asyncio.run(asample(model, PROMPT, n=2, seed=3))
    assert (model.seen, model.seeds) == ([PROMPT, PROMPT], [3, 4])


def test_an_exception_is_raised_in_its_turn() -> None:
    model = ScriptedModel(replies=["a", OSError("lost"), "b"])
    assert texts(model, 1) == ["a"]
    with pytest.raises(InfrastructureError, match="lost"):
        texts(model, 1)
    assert texts(model, 1) == ["b"]


def test_it_calls_tools_where_it_is_told_that_it_can() -> None:
    call = {"name": "look", "args": {"place": "here"}, "id": "1"}
    model = ScriptedModel(replies=[AIMessage("", tool_calls=[call])], tools=True)
    assert model.bind_tools([look]).invoke(PROMPT).tool_calls[0]["args"] == {"place": "here"}
    with pytest.raises(NotImplementedError, match="tools=True"):
        ScriptedModel(replies=["a"]).bind_tools([look])


def test_a_reply_that_repeats_is_a_message_of_its_own() -> None:
    model = ScriptedModel(replies=[AIMessage("a")])
    first, second = (model.invoke(PROMPT) for _ in range(2))
    assert (first.content, second.content) == ("a", "a")
    assert first.id != second.id
