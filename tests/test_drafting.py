"""A generator that runs code while it writes: what it may do, what of it is kept, and what it costs."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest
from fakes import BrokenSandbox, RuleSandbox, ScriptedModel, fenced
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from processes import busy_programs
from waiting import auntil

from mucode_agent import Budget, InfrastructureError, LocalSandbox, MemoryTrace, ProblemError, Solution, create_solver
from mucode_agent.traces import CandidateRow
from mucode_agent.types import Sandbox

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
SECRET = "41414141"
PROBLEM = {
    "id": "inc",
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "private_tests": [f"assert f({SECRET}) == 41414142"],
}


def tool_caller(
    calls: int = 1, name: str = "run_python", args: Any = None, program: str = GOOD, at_once: int = 1
) -> ScriptedModel:
    """Calls `name` in its first `calls` answers, and then gives the last tool result in a program's comment."""
    args = {"code": "print(6 * 7)"} if args is None else args

    def reply(messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        assert options["tools"] == ["run_python"]
        results = [message for message in messages if isinstance(message, ToolMessage)]
        usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        if len(results) < calls:
            kind = "tool_calls" if isinstance(args, dict) else "invalid_tool_calls"
            called = [
                {"name": name, "args": args, "id": f"{len(results)}.{i}", "type": kind[:-1]} for i in range(at_once)
            ]
            return AIMessage("Let me see.", usage_metadata=usage, **{kind: called})
        shown = str(results[-1].content).splitlines()[0] if results else "nothing"
        return AIMessage(fenced(f"# {shown}\n{program}"), usage_metadata=usage)

    return ScriptedModel(replies=reply, tools=True, native_n=False)


def sync(graph: Any) -> Solution:
    return Solution.model_validate(graph.invoke({"problem": PROBLEM})["solution"])


def in_a_loop(graph: Any) -> Solution:
    return Solution.model_validate(asyncio.run(graph.ainvoke({"problem": PROBLEM}))["solution"])


both = pytest.mark.parametrize("solve", [sync, in_a_loop])


def solver(model: Any, sandbox: Sandbox | None = None, **settings: Any) -> Any:
    place = sandbox or RuleSandbox(lambda code: "x + 1" in code)
    return create_solver(model, sandbox=place, **{"n": 1, "max_turns": 1, "tools_per_candidate": 3, **settings})


@both
def test_a_candidate_is_written_with_what_the_sandbox_printed(
    solve: Callable[[Any], Solution], sandbox: LocalSandbox
) -> None:
    solution = solve(solver(tool_caller(), sandbox))
    assert (solution.solved, solution.code) == (True, f"# 42\n{GOOD}")
    assert (solution.usage.tool_calls, solution.usage.candidates, solution.usage.tokens) == (1, 1, 2 * 15)


@both
def test_each_candidate_has_its_own_conversation_and_one_seed_for_all_of_it(solve: Callable[[Any], Solution]) -> None:
    model, trace = tool_caller(calls=2, program=BAD), MemoryTrace()
    solution = solve(solver(model, n=3, trace=trace))
    samples = [row.candidate.sample for row in trace.rows if isinstance(row, CandidateRow)]
    seeds = sorted(sample.seed for sample in samples)
    assert seeds == list(range(seeds[0], seeds[0] + 3))
    assert sorted(model.seeds) == sorted(seeds * 3)
    assert [(s.tool_calls, s.prompt_tokens, s.completion_tokens) for s in samples] == [(2, 30, 15)] * 3
    assert (solution.usage.tool_calls, solution.usage.tokens) == (6, 3 * 3 * 15)


@both
def test_a_model_that_calls_for_ever_is_told_when_no_call_is_left(solve: Callable[[Any], Solution]) -> None:
    model = tool_caller(calls=99)
    solution = solve(solver(model, tools_per_candidate=2))
    assert (len(model.seen), solution.usage.tool_calls, solution.code) == (3, 2, "")
    answers = [str(message.content) for message in model.seen[-1] if isinstance(message, ToolMessage)]
    assert ["No calls are left" in words for words in answers] == [False, True]


@both
def test_several_calls_in_one_message_beyond_the_bound_are_answered_not_run(solve: Callable[[Any], Solution]) -> None:
    model, sandbox = tool_caller(at_once=5), RuleSandbox(lambda code: "x + 1" in code)
    solution = solve(solver(model, sandbox, tools_per_candidate=2))
    assert (solution.solved, solution.usage.tool_calls) == (True, 2)
    assert len(sandbox.jobs) == 2 + 1
    assert sum(isinstance(message, ToolMessage) for message in model.seen[-1]) == 5


@both
def test_only_the_answer_enters_the_history(solve: Callable[[Any], Solution]) -> None:
    model = tool_caller(program=BAD)
    solve(solver(model, max_turns=2))
    [first, _, third, _] = model.seen
    assert [type(message) for message in third] == [HumanMessage, AIMessage, HumanMessage]
    assert third[: len(first)] == first
    assert "Let me see" not in str(third)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ({"name": "rm"}, "There is no tool rm; call run_python."),
        ({"args": {"program": "print(1)"}}, "code is missing"),
        ({"args": '{"code": '}, "no JSON object"),
        ({"args": {"code": "print(1 / 0)"}}, "ZeroDivisionError"),
    ],
)
@both
def test_a_mistaken_call_is_answered_and_counted(
    solve: Callable[[Any], Solution], mistake: dict[str, Any], words: str, sandbox: LocalSandbox
) -> None:
    model = tool_caller(**mistake)
    solution = solve(solver(model, sandbox))
    answers = next(message for message in model.seen[-1] if isinstance(message, ToolMessage))
    assert words in str(answers.content)
    assert (solution.solved, solution.usage.tool_calls) == (True, 1)


@both
def test_a_broken_sandbox_is_not_the_programs_fault_while_writing_either(solve: Callable[[Any], Solution]) -> None:
    model = tool_caller(program="")
    with pytest.raises(InfrastructureError, match="could not start"):
        solve(solver(model, BrokenSandbox()))
    assert "says nothing about the program" in str(model.seen[-1][-1].content)


def test_what_it_says_while_it_writes_stays_out_of_a_hosts_message_stream(sandbox: LocalSandbox) -> None:
    stream = solver(tool_caller(), sandbox).stream({"problem": PROBLEM}, stream_mode="messages", subgraphs=True)
    assert list(stream) == []


def test_no_test_is_in_the_sandbox_while_the_generator_writes() -> None:
    sandbox, model = RuleSandbox(lambda code: "x + 1" in code), tool_caller()
    solver(model, sandbox).invoke({"problem": PROBLEM})
    assert "assert" not in str(sandbox.jobs[0])
    assert SECRET not in str(sandbox.jobs) + str(model.seen)


def test_the_tokens_of_calls_count_against_the_budget() -> None:
    model = tool_caller(calls=2, program=BAD)
    graph = solver(model, max_turns=9, budget=Budget(tokens=60))
    assert (sync(graph).stop_reason, len(model.seen)) == ("max_tokens", 2 * 3)


@pytest.mark.parametrize(
    "model", [ScriptedModel(replies=[fenced(GOOD)]), RunnableLambda(lambda _: AIMessage(fenced(GOOD)))]
)
@both
def test_a_model_that_cannot_call_tools_is_refused(solve: Callable[[Any], Solution], model: Any) -> None:
    with pytest.raises(ProblemError, match="cannot call tools: leave tools_per_candidate at 0"):
        solve(solver(model))


def test_a_bound_model_keeps_what_it_was_bound_with() -> None:
    def reply(_: object, options: dict[str, Any]) -> str:
        assert (options["tools"], options["top_k"], options["temperature"]) == (["run_python"], 5, 0.9)
        return fenced(GOOD)

    assert sync(solver(ScriptedModel(replies=reply, tools=True).bind(top_k=5), temperature=0.9)).solved


def test_a_model_in_this_process_says_that_it_cannot_call_tools() -> None:
    with pytest.raises(ProblemError, match="cannot call tools"):
        sync(solver("smollm2"))


async def test_cancelling_while_it_writes_kills_what_it_runs(sandbox: LocalSandbox) -> None:
    model = tool_caller(args={"code": "while True: pass"})
    solving = asyncio.create_task(solver(model, sandbox).ainvoke({"problem": PROBLEM}))
    await auntil(lambda: busy_programs(os.getpid()))
    assert len(model.seen) == 1
    solving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await solving
    async with asyncio.timeout(4):  # the only worker is free again, long before the program's own limit
        assert (await solver(tool_caller(), sandbox).ainvoke({"problem": PROBLEM}))["solution"]["solved"]
