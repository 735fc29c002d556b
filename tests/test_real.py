"""Real models as callers of our tools. tests/README.md says what these need."""

import os
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from mucode_agent import MemoryTrace, Solution, create_solver, create_solver_tool
from mucode_agent.models.load import load_model
from mucode_agent.traces import CandidateRow

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

TASK = (
    "I need a Python function add_one(x) that returns x + 1. Have it written: the prompt of the task is this sentence, "
    "its tests are the one string `assert add_one(1) == 2`."
)
PROBLEM = {"prompt": "Write add_one(x), which returns x + 1.", "public_tests": ["assert add_one(1) == 2"]}


@pytest.fixture
def model() -> BaseChatModel:
    spec = os.environ.get("MUCODE_TEST_MODEL") or pytest.skip("MUCODE_TEST_MODEL names no model that can call tools")
    return load_model(spec, temperature=0, max_tokens=256)


@wrap_model_call
def calls_once(request: Any, handler: Any) -> Any:
    """A small model calls tools as it likes: it is made to, and then made to answer."""
    called = any(isinstance(message, ToolMessage) for message in request.messages)
    return handler(request.override(tool_choice="none" if called else "required"))


def test_a_real_model_calls_the_solver_and_answers(model: BaseChatModel) -> None:
    agent = create_agent(model, tools=[create_solver_tool(model, n=2, max_turns=2)], middleware=[calls_once])
    messages = agent.invoke({"messages": [HumanMessage(TASK)]})["messages"]
    assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[2].status == "success", messages[2].content
    solution = Solution.model_validate(messages[2].artifact)
    assert solution.code
    assert solution.code in messages[2].content
    assert messages[3].text


async def test_a_real_model_may_run_code_while_it_writes(model: BaseChatModel) -> None:
    trace = MemoryTrace()
    graph = create_solver(model, n=2, max_turns=1, tools_per_candidate=2, temperature=0.7, trace=trace)
    solution = Solution.model_validate((await graph.ainvoke({"problem": PROBLEM}))["solution"])
    samples = [row.candidate.sample for row in trace.rows if isinstance(row, CandidateRow)]
    assert [sample.seed - samples[0].seed for sample in samples] == [0, 1]
    assert all(0 <= sample.tool_calls <= 2 and sample.completion_tokens > 0 for sample in samples)
    assert solution.usage.tool_calls == sum(sample.tool_calls for sample in samples)
