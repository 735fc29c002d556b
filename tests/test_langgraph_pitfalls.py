"""What LangGraph does to components that are embedded, interrupted or resumed: each trap that we know, as a claim."""

import asyncio
import operator
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from fakes import RuleSandbox, ScriptedModel, fenced
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from mucode_agent import MemoryTrace, ProblemError, add_solver, build_solver, create_solver

GOOD, BAD, WORSE = "def f(x):\n    return x + 1", "def f(x):\n    return x", "def f(x):\n    return 0"
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}


def solver(*replies: str, **settings: Any) -> Any:
    model = ScriptedModel(replies=[fenced(reply) for reply in replies])
    return create_solver(model, sandbox=RuleSandbox(lambda code: "x + 1" in code), **settings)


def test_one_graph_serves_invoke_and_ainvoke() -> None:
    graph = solver(GOOD)
    sync, concurrent = graph.invoke({"problem": PROBLEM}), asyncio.run(graph.ainvoke({"problem": PROBLEM}))
    assert sync["solution"]["best"]["code"] == concurrent["solution"]["best"]["code"] == GOOD


# --- embedding -----------------------------------------------------------------------------------------------------


class Collision(TypedDict, total=False):
    """A parent with our inner names, other types and reducers."""

    problem: dict[str, Any]
    solution: dict[str, Any]
    turns: Annotated[list[str], operator.add]
    samples: Annotated[int, operator.add]
    usage: str
    decision: list[int]


def test_a_parents_keys_of_the_same_names_neither_leak_nor_collide() -> None:
    graph = StateGraph(Collision)
    graph.add_node("solve", solver(BAD, GOOD, n=1))
    graph.add_edge(START, "solve")
    mine = {"turns": ["mine"], "samples": 7, "usage": "mine", "decision": [1]}
    state = graph.compile().invoke({"problem": PROBLEM, **mine})  # type: ignore[call-overload]
    assert {key: state[key] for key in mine} == mine
    assert state["solution"]["turns"] == 2


class Fan(TypedDict, total=False):
    problem: dict[str, Any]
    codes: Annotated[list[str], operator.add]


@pytest.mark.parametrize("checkpointer", [None, InMemorySaver()])
def test_three_solves_in_one_superstep_do_not_disturb_each_other(checkpointer: Any) -> None:
    inner = solver(GOOD, n=1)

    def solve(state: Fan) -> Fan:
        return {"codes": [inner.invoke({"problem": state["problem"]})["solution"]["problem_id"]]}

    graph = StateGraph(Fan)
    graph.add_node("solve", solve)
    graph.add_conditional_edges(START, lambda _: [Send("solve", {"problem": {**PROBLEM, "id": i}}) for i in "abc"])
    config: Any = {"configurable": {"thread_id": "fan"}}
    assert graph.compile(checkpointer=checkpointer).invoke({}, config)["codes"] == ["a", "b", "c"]


def test_several_solves_in_one_node_of_a_checkpointing_parent_start_clean() -> None:
    inner = solver(BAD, n=1, max_turns=2)

    def twice(state: Fan) -> Fan:
        found = [inner.invoke({"problem": PROBLEM})["solution"] for _ in range(2)]
        return {"codes": [f"{solution['turns']}/{solution['usage']['candidates']}" for solution in found]}

    graph = StateGraph(Fan)
    graph.add_node("twice", twice)
    graph.add_edge(START, "twice")
    config: Any = {"configurable": {"thread_id": "twice"}}
    assert graph.compile(checkpointer=InMemorySaver()).invoke({}, config)["codes"] == ["2/2", "2/2"]


def test_two_embedded_solvers_side_by_side_work_on_one_problem() -> None:
    class Two(TypedDict, total=False):
        problem: dict[str, Any]
        solution: Annotated[list[Any], lambda old, new: [*(old or []), new]]

    graph = StateGraph(Two)
    for name in ("left", "right"):
        graph.add_node(name, solver(GOOD, n=1, name=name))
        graph.add_edge(START, name)
    solutions = graph.compile().invoke({"problem": PROBLEM})["solution"]
    assert [solution["solved"] for solution in solutions] == [True, True]


@dataclass
class OtherContext:
    model: int = 0


@pytest.mark.parametrize("context", [None, OtherContext(), OtherContext(model=3)])
def test_a_parents_other_or_missing_context_is_tolerated(context: OtherContext | None) -> None:
    class State(TypedDict, total=False):
        problem: dict[str, Any]
        solution: dict[str, Any]

    graph = StateGraph(State, context_schema=OtherContext)
    graph.add_node("solve", solver(GOOD, n=1))
    graph.add_edge(START, "solve")
    assert graph.compile().invoke({"problem": PROBLEM}, context=context)["solution"]["solved"]


def test_a_parent_without_our_output_key_is_refused_where_langgraph_would_drop_the_answer() -> None:
    class State(TypedDict, total=False):
        problem: dict[str, Any]
        answer: dict[str, Any]

    silent = StateGraph(State)
    silent.add_node("solve", solver(GOOD, n=1))
    silent.add_edge(START, "solve")
    assert set(silent.compile().invoke({"problem": PROBLEM})) == {"problem"}
    with pytest.raises(ProblemError, match="no key 'solution', only problem, answer"):
        add_solver(StateGraph(State), solver(GOOD, n=1))


def test_the_uncompiled_graph_compiles_as_its_caller_likes() -> None:
    model, sandbox = ScriptedModel(replies=[fenced(GOOD)]), RuleSandbox(lambda code: "x + 1" in code)
    graph = build_solver(model, sandbox=sandbox, n=1).compile(
        checkpointer=InMemorySaver(), interrupt_after=["generate"], name="mine"
    )
    config: Any = {"configurable": {"thread_id": "1"}}
    assert graph.invoke({"problem": PROBLEM}, config) == {"solution": {}}
    assert graph.get_state(config).next == ("execute",)
    assert graph.invoke(None, config)["solution"]["solved"]


def test_a_parent_without_our_input_key_is_told_so() -> None:
    class State(TypedDict, total=False):
        solution: dict[str, Any]

    graph = StateGraph(State)
    graph.add_node("solve", solver(GOOD, n=1), input_schema=State)
    graph.add_edge(START, "solve")
    with pytest.raises(ProblemError, match="no key 'problem'"):
        graph.compile().invoke({"solution": {}})


# --- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("approve", [False, True])
def test_a_low_recursion_limit_of_the_parent_returns_the_best_so_far(approve: bool) -> None:
    class State(TypedDict, total=False):
        problem: dict[str, Any]
        solution: dict[str, Any]

    graph = StateGraph(State)
    graph.add_node("solve", solver(BAD, n=1, max_turns=100, approve=approve))
    graph.add_edge(START, "solve")
    config: Any = {"recursion_limit": 12, "configurable": {"thread_id": "1"}}
    solution = graph.compile(checkpointer=InMemorySaver()).invoke({"problem": PROBLEM}, config)["solution"]
    assert (solution["stop_reason"], solution["best"]["code"]) == ("recursion_limit", BAD)


@pytest.mark.parametrize("limit", range(6, 16))
def test_no_recursion_limit_that_allows_a_turn_loses_the_answer(limit: int) -> None:
    solution = solver(BAD, n=4, wave=1).invoke({"problem": PROBLEM}, {"recursion_limit": limit})["solution"]
    assert solution["best"]["code"] == BAD


def test_a_recursion_limit_below_one_turn_is_langgraphs_own_error() -> None:
    with pytest.raises(GraphRecursionError):
        solver(BAD, n=1).invoke({"problem": PROBLEM}, {"recursion_limit": 3})


def test_the_same_thread_twice_starts_clean() -> None:
    graph = solver(BAD, n=2, max_turns=2, checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    first, second = (graph.invoke({"problem": PROBLEM}, config)["solution"] for _ in range(2))
    assert (first["turns"], first["usage"]["candidates"]) == (2, 4)
    assert (second["turns"], second["usage"]["candidates"]) == (2, 4)


# --- candidates and models -----------------------------------------------------------------------------------------


def test_a_turn_whose_candidates_all_fail_still_reaches_select() -> None:
    trace = MemoryTrace()
    graph = solver("import sys; sys.exit(0)", "def f(", n=2, max_turns=1, trace=trace)
    assert graph.invoke({"problem": PROBLEM})["solution"]["stop_reason"] == "max_turns"
    assert [row.kind for row in trace.rows] == ["problem", "candidate", "candidate", "decision"]


class StreamingModel(GenericFakeChatModel):
    """Streams token by token wherever somebody listens."""


@pytest.mark.parametrize("embedded", [False, True])
def test_samples_stay_out_of_a_hosts_message_stream(embedded: bool) -> None:
    model = StreamingModel(messages=iter([AIMessage(fenced(BAD)), AIMessage(fenced(GOOD))]))
    graph: Any = create_solver(model, sandbox=RuleSandbox(lambda code: "x + 1" in code), n=1)
    if embedded:
        parent = StateGraph(Collision)
        parent.add_node("solve", graph)
        parent.add_edge(START, "solve")
        graph = parent.compile()
    assert list(graph.stream({"problem": PROBLEM}, stream_mode="messages", subgraphs=True)) == []


def test_events_reach_the_caller_of_a_parent_with_subgraphs() -> None:
    parent = StateGraph(Collision)
    parent.add_node("solve", solver(GOOD, n=1))
    parent.add_edge(START, "solve")
    stream = parent.compile().stream({"problem": PROBLEM}, stream_mode="custom", subgraphs=True)
    events = [event["event"] for _, event in stream]  # type: ignore[call-overload, index]
    assert events[0] == "mucode.turn_started"
    assert events[-1] == "mucode.routed"


@pytest.fixture
def llm_cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("llm_cache")
def test_a_cache_of_the_host_does_not_turn_n_samples_into_one() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage(fenced(code)) for code in (BAD, WORSE, BAD, GOOD)]))
    trace = MemoryTrace()
    graph = create_solver(model, sandbox=RuleSandbox(lambda code: "x + 1" in code), n=2, max_turns=1, trace=trace)
    first, second = (graph.invoke({"problem": PROBLEM})["solution"]["solved"] for _ in range(2))
    assert {row.candidate.code for row in trace.rows if row.kind == "candidate"} == {BAD, WORSE, GOOD}
    assert (first, second) == (False, True)


def test_a_hosts_callbacks_see_every_model_call_inside_our_node() -> None:
    collector, usage = RunCollectorCallbackHandler(), UsageMetadataCallbackHandler()
    usage_of_one: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    reply = AIMessage(fenced(BAD), response_metadata={"model_name": "named"}, usage_metadata=usage_of_one)
    model = ScriptedModel(replies=[reply], native_n=False)
    graph = create_solver(model, sandbox=RuleSandbox(lambda _: False), n=2, max_turns=2)
    graph.invoke({"problem": PROBLEM}, {"callbacks": [collector, usage]})
    assert usage.usage_metadata["named"]["output_tokens"] == 4 * 5
    assert collector.traced_runs[0].name == "mucode"


# --- the rest ------------------------------------------------------------------------------------------------------


def test_a_batch_returns_one_problems_error_beside_the_others_solutions() -> None:
    results = solver(GOOD, n=1).batch(
        [{"problem": PROBLEM}, {"problem": {"prompt": ""}}, {"problem": PROBLEM}],
        {"max_concurrency": 2},
        return_exceptions=True,
    )
    assert [isinstance(result, ProblemError) for result in results] == [False, True, False]
    assert results[2]["solution"]["solved"]


def test_drawing_the_graph_needs_no_network() -> None:
    drawn = solver(GOOD, approve=True).get_graph(xray=True).draw_mermaid()
    assert all(name in drawn for name in ("prepare", "propose", "generate", "execute", "verify", "select", "approve"))


def test_importing_and_building_loads_no_model_and_starts_no_process() -> None:
    script = """
import sys, os, threading
from mucode_agent.graphs.studio import graph
from mucode_agent import create_solver, create_solver_tool
create_solver("hf:/nowhere"); create_solver_tool("vllm:none@http://127.0.0.1:1/v1")
print([name for name in ("torch", "transformers", "numpy", "openai", "e2b") if name in sys.modules])
print(threading.active_count(), open("/proc/self/task/%d/children" % os.getpid()).read().split())
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == ["[]", "1 []"]


def test_the_node_names_and_edges_are_stable() -> None:
    edges = {(edge.source, edge.target) for edge in solver(GOOD, probes=0).get_graph().edges}
    assert edges == {
        (START, "prepare"),
        ("prepare", "propose"),
        ("prepare", "generate"),
        ("propose", "generate"),
        ("generate", "execute"),
        ("execute", "verify"),
        ("verify", "select"),
        ("select", "generate"),
        ("select", "approve"),
        ("select", END),
        ("approve", "generate"),
        ("approve", END),
    }
