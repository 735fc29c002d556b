"""What a solver holds, and that it gives it back: processes, programs, and settings of one call."""

import asyncio
import gc
import os
from collections.abc import Callable
from typing import Any, TypedDict, get_type_hints

import pytest
from fakes import RuleSandbox, ScriptedModel, fenced
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from processes import children, descendants
from waiting import auntil, until

from mucode_agent import InfrastructureError, LocalSandbox, MemoryTrace, Options, ProblemError, Settings, create_solver
from mucode_agent.tools.sandbox import SharedSandbox
from mucode_agent.traces import CandidateRow, DecisionRow
from mucode_agent.types import Job

PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
GOOD, BAD, ENDLESS = "def f(x):\n    return x + 1", "def f(x):\n    return x", "def f(x):\n    while True: pass"
THREAD: Any = {"configurable": {"thread_id": "1"}}


def processes() -> int:
    return len(descendants(os.getpid()))


def solver(*replies: str, **settings: Any) -> Any:
    return create_solver(ScriptedModel(replies=list(map(fenced, replies))), **{"verifier": "none", "n": 1, **settings})


# --- processes -----------------------------------------------------------------------------------------------------


def test_thirty_solvers_share_one_sandbox_and_the_last_one_ends_it() -> None:
    before = processes()
    solvers = [solver(GOOD) for _ in range(30)]
    assert solvers[0].invoke({"problem": PROBLEM})["solution"]["solved"]
    servers = children(os.getpid())
    for graph in solvers[1:]:
        assert graph.invoke({"problem": PROBLEM})["solution"]["solved"]
    assert children(os.getpid()) == servers
    assert processes() < before + 30
    for graph in solvers[1:]:
        graph.close()
        graph.close()
    assert solvers[0].invoke({"problem": PROBLEM})["solution"]["solved"]
    solvers[0].close()
    until(lambda: processes() <= before)


def test_solvers_that_are_dropped_leave_no_process() -> None:
    before = processes()
    for _ in range(3):
        assert solver(GOOD).invoke({"problem": PROBLEM})["solution"]["solved"]
    gc.collect()
    until(lambda: processes() <= before)


def test_a_solver_in_with_closes_itself_and_answers_no_more() -> None:
    before = processes()
    with solver(GOOD) as graph:
        assert graph.invoke({"problem": PROBLEM})["solution"]["solved"]
        assert graph.with_config(tags=["x"]).invoke({"problem": PROBLEM})["solution"]["solved"]
    until(lambda: processes() <= before)
    with pytest.raises(ProblemError, match="the solver is closed: create a new one"):
        graph.invoke({"problem": PROBLEM})


def test_a_sandbox_that_was_given_stays_its_givers() -> None:
    sandbox = LocalSandbox(workers=1)
    with solver(GOOD, sandbox=sandbox) as graph:
        graph.invoke({"problem": PROBLEM})
    assert sandbox.submit(Job(code="x = 1")).result().status == "unjudged"
    sandbox.close()


def test_a_sandbox_that_is_dropped_ends_and_its_waiting_jobs_do_not() -> None:
    before = processes()
    assert LocalSandbox(workers=1).submit(Job(code="x = 1")).result().status == "unjudged"
    gc.collect()
    until(lambda: processes() <= before)


@pytest.mark.parametrize("run", ["sync", "async"])
def test_closing_ends_programs_that_run_and_says_so(run: str) -> None:
    graph = solver(ENDLESS)
    problem = {"problem": {**PROBLEM, "limits": {"time_s": 600}}}

    async def closed_meanwhile() -> None:
        task = asyncio.create_task(
            graph.ainvoke(problem) if run == "async" else asyncio.to_thread(graph.invoke, problem)
        )
        await auntil(lambda: graph.parts._sandbox is not None and graph.parts._sandbox._futures)
        await asyncio.to_thread(graph.close)
        await task

    with pytest.raises(InfrastructureError, match="the sandbox was closed while programs ran"):
        asyncio.run(closed_meanwhile())


def test_one_holder_of_the_shared_sandbox_cancels_its_own_programs_only() -> None:
    mine, other = SharedSandbox(), SharedSandbox()
    job = Job(code="import time; time.sleep(1)", limits={"time_s": 600})  # type: ignore[arg-type]
    theirs = other.submit(job)
    endless = mine.submit(Job(code="while True: pass", limits={"time_s": 600}))  # type: ignore[arg-type]
    mine.close()
    assert endless.cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        mine.submit(job)
    assert theirs.result().status == "unjudged"
    other.close()


# --- settings of one call ------------------------------------------------------------------------------------------


def judged(*replies: str, **settings: Any) -> Any:
    return solver(*replies, sandbox=RuleSandbox(lambda code: "x + 1" in code), **settings)


def test_the_options_are_the_settings() -> None:
    assert get_type_hints(Options) == get_type_hints(Settings)


@pytest.mark.parametrize("context", [{"n": 3, "max_turns": 2}, Settings(n=3, max_turns=2)])
def test_a_call_sets_what_its_context_gives_and_nothing_else(context: Any) -> None:
    trace = MemoryTrace()
    graph = judged(BAD, n=2, max_turns=1, trace=trace)
    assert graph.invoke({"problem": PROBLEM}, context=context)["solution"]["usage"]["candidates"] == 6
    assert graph.invoke({"problem": PROBLEM})["solution"]["usage"]["candidates"] == 2
    runs = {row.run_id for row in trace.rows}
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("context", "words"), [({"m": 3}, "m is unknown; known are .*n, "), ({"n": 0}, "n must be at least")]
)
def test_a_context_of_wrong_settings_is_refused_in_one_sentence(context: Any, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        judged(BAD).invoke({"problem": PROBLEM}, context=context)


def test_a_resumed_solve_keeps_the_settings_of_its_call() -> None:
    graph = judged(BAD, n=1, max_turns=1, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD, context={"max_turns": 3}, interrupt_before=["execute"])
    assert graph.invoke(None, THREAD)["solution"]["turns"] == 3


def test_one_call_may_ask_a_person_or_none() -> None:
    graph = judged(GOOD, checkpointer=InMemorySaver())
    assert "__interrupt__" in graph.invoke({"problem": PROBLEM}, THREAD, context={"approve": True})
    assert graph.invoke(Command(resume=True), THREAD)["solution"]["solved"]
    assert graph.invoke({"problem": PROBLEM}, THREAD)["solution"]["solved"]


def test_a_parents_context_of_ours_reaches_an_embedded_solver_and_another_does_not() -> None:
    from mucode_agent.graphs.settings import CallSettings

    class Host(TypedDict, total=False):
        problem: dict[str, Any]
        solution: dict[str, Any]

    parent: Any = StateGraph(Host, context_schema=CallSettings)
    parent.add_node("solve", judged(BAD, n=1, max_turns=1))
    parent.add_edge(START, "solve")
    compiled = parent.compile()
    assert compiled.invoke({"problem": PROBLEM}, context={"n": 4})["solution"]["usage"]["candidates"] == 4


def test_events_carry_the_problem_and_the_run() -> None:
    trace = MemoryTrace()
    events = list(judged(BAD, GOOD, trace=trace).stream({"problem": PROBLEM}, stream_mode="custom"))
    [run] = {row.run_id for row in trace.rows}
    assert {(event["problem_id"], event["run_id"]) for event in events} == {("inc", run)}


# --- a person's word -----------------------------------------------------------------------------------------------

EDITED = "def f(x):\n    return 1 + x"


def ask(**settings: Any) -> tuple[Any, Any, MemoryTrace]:
    trace = MemoryTrace()
    graph = solver(GOOD, approve=True, checkpointer=InMemorySaver(), trace=trace, **settings)
    paused = graph.invoke({"problem": PROBLEM}, THREAD)
    return graph, paused["__interrupt__"][0].value, trace


EDITS = [
    lambda code: {"approved": True, "code": code},
    lambda code: {"type": "edit", "edited_action": {"name": "accept_program", "args": {"code": code}}},
    lambda code: {"decisions": [{"type": "edit", "edited_action": {"name": "accept_program", "args": {"code": code}}}]},
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("run", ["sync", "async"])
def test_an_edited_program_is_run_again_and_then_accepted(run: str, edit: Callable[[str], Any]) -> None:
    graph, _, trace = ask()
    resume = Command(resume=edit(EDITED))
    state = graph.invoke(resume, THREAD) if run == "sync" else asyncio.run(graph.ainvoke(resume, THREAD))
    best = state["solution"]["best"]
    assert (state["solution"]["solved"], best["code"], best["report"]["status"]) == (True, EDITED, "passed")
    assert best["sample"]["finish_reason"] == "edited"
    codes = [row.candidate.code for row in trace.rows if isinstance(row, CandidateRow)]
    assert codes == [GOOD, EDITED]
    [decision] = [row.decision for row in trace.rows if isinstance(row, DecisionRow)][-1:]
    assert "a person edited the program" in decision.reason
    graph.close()


def test_an_edited_program_that_fails_is_never_accepted_and_is_asked_about_again() -> None:
    graph, _, _ = ask()
    paused = graph.invoke(Command(resume={"approved": True, "code": BAD}), THREAD)
    question = paused["__interrupt__"][0].value
    assert "the edited program was run, and is not accepted" in question["error"]
    assert question["code"] == GOOD
    assert graph.invoke(Command(resume=True), THREAD)["solution"]["best"]["code"] == GOOD
    graph.close()


def test_the_question_and_its_answers_have_the_forms_of_langchains_middleware() -> None:
    graph, question, _ = ask(max_turns=1)
    [request], [config] = question["action_requests"], question["review_configs"]
    assert request["args"]["code"] == GOOD
    assert config == {
        "action_name": request["name"],
        "allowed_decisions": ["approve", "edit", "reject", "respond"],
    }
    assert graph.invoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)["solution"]["solved"]
    graph.close()


@pytest.mark.parametrize("kind", ["reject", "respond"])
def test_a_rejection_or_response_is_what_the_model_reads_next(kind: str) -> None:
    model = ScriptedModel(replies=[fenced(GOOD), fenced(EDITED)])
    sandbox = RuleSandbox(lambda _: True)
    graph = create_solver(model, sandbox=sandbox, verifier="none", n=1, approve=True, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD)
    graph.invoke(Command(resume={"decisions": [{"type": kind, "message": "Use no x first."}]}), THREAD)
    assert "Use no x first." in str(model.seen[1][-1].content)


@pytest.mark.parametrize(
    "answer",
    [{"decisions": []}, {"type": "edit"}, {"type": "later"}, {"approved": True, "code": ""}, {"type": "respond"}],
)
def test_an_answer_of_no_known_form_is_asked_again(answer: Any) -> None:
    graph, _, _ = ask()
    paused = graph.invoke(Command(resume=answer), THREAD)
    assert "is no review" in paused["__interrupt__"][0].value["error"]
    graph.close()
