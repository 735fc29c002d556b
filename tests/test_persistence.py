"""Solves that are saved, killed, resumed, paused for a person, or cancelled."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from fakes import RuleSandbox, ScriptedModel, fenced
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from processes import alive, busy_programs, descendants
from waiting import auntil, until

from mucode_agent import (
    InfrastructureError,
    LocalSandbox,
    MemoryTrace,
    ProblemError,
    add_solver,
    create_solver,
    read_trace,
)
from mucode_agent.traces import CandidateRow, DecisionRow

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
THREAD: Any = {"configurable": {"thread_id": "1"}}
HERE = Path(__file__).parent
PATHS = os.pathsep.join(sys.path)
"""A process of its own imports what this one does."""


def solver(*replies: str, **settings: Any) -> Any:
    model = ScriptedModel(replies=[fenced(reply) for reply in replies])
    return create_solver(model, sandbox=RuleSandbox(lambda code: "x + 1" in code), **settings)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteSaver]:
    connection = sqlite3.connect(tmp_path / "checkpoints.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


# --- savers --------------------------------------------------------------------------------------------------------


def test_a_solve_is_the_same_with_and_without_a_saver(sqlite: SqliteSaver) -> None:
    solutions = []
    for saver in (None, InMemorySaver(), sqlite):
        solution = solver(BAD, GOOD, n=1, checkpointer=saver).invoke({"problem": PROBLEM}, THREAD)["solution"]
        solutions.append({**solution, "usage": {**solution["usage"], "seconds": 0}})
    assert solutions[0] == solutions[1] == solutions[2]


async def test_an_async_saver_serves_ainvoke(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
        graph = solver(BAD, GOOD, n=1, checkpointer=saver)
        assert (await graph.ainvoke({"problem": PROBLEM}, THREAD))["solution"]["turns"] == 2
        assert (await graph.aget_state(THREAD)).values["solution"]["solved"]


@pytest.mark.real
def test_a_postgres_saver_resumes_a_solve() -> None:
    """Needs langgraph-checkpoint-postgres and a server in MUCODE_TEST_POSTGRES, as postgresql://user@host/name."""
    postgres = pytest.importorskip("langgraph.checkpoint.postgres")
    address = os.environ.get("MUCODE_TEST_POSTGRES") or pytest.skip("MUCODE_TEST_POSTGRES names no server")
    with postgres.PostgresSaver.from_conn_string(address) as saver:
        saver.setup()
        saver.delete_thread("1")
        graph = solver(BAD, GOOD, n=1, approve=True, checkpointer=saver)
        assert "__interrupt__" in graph.invoke({"problem": PROBLEM}, THREAD)
        assert graph.invoke(Command(resume=True), THREAD)["solution"]["solved"]


@pytest.mark.parametrize("strict", ["0", "1"])
def test_checkpoints_hold_plain_data_only(strict: str, tmp_path: Path) -> None:
    """A type of ours would warn when it is read in default mode, and come back as something else in strict mode."""
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": strict, "PYTHONWARNINGS": "error", "PYTHONPATH": PATHS}
    command = [sys.executable, str(HERE / "solve_victim.py"), str(tmp_path), "ask"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    command[-1] = "approve"
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["solved"]
    assert "unregistered" not in done.stderr
    assert "Blocked" not in done.stderr


def test_checkpoints_of_a_turn_grow_with_its_texts_and_not_with_turns_past(sqlite: SqliteSaver) -> None:
    text = 8 * 1024
    replies = [f"{BAD}\n# {i:04}" + "x" * (text - len(BAD)) for i in range(48)]
    solver(*replies, n=16, max_turns=3, checkpointer=sqlite).invoke({"problem": PROBLEM}, THREAD)
    sizes = [
        size for (size,) in sqlite.conn.execute("SELECT length(checkpoint) FROM checkpoints ORDER BY checkpoint_id")
    ]
    texts = 16 * text
    assert max(sizes) < 1.3 * texts + 3 * 2 * text  # the samples of one turn, and the best of each turn before
    assert sizes[-1] < 1.3 * texts + 4 * 2 * text


# --- killed and resumed --------------------------------------------------------------------------------------------


def victim(directory: Path, mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": PATHS}
    command = [sys.executable, str(HERE / "solve_victim.py"), str(directory), mode]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    def reached() -> bool:
        assert process.poll() is None, "the process ended before it was killed"
        return len(lines(path)) >= count

    until(reached)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_killed_while_it_executes_a_turn_and_resumed_it_draws_nothing_again(at: int, tmp_path: Path) -> None:
    process = victim(tmp_path, f"hang-{at}")
    wait_for(tmp_path / "executing", at, process)
    process.kill()
    process.communicate()
    resumed = victim(tmp_path, "resume")
    solution = json.loads(resumed.communicate()[0])
    assert (solution["turns"], solution["usage"]["candidates"]) == (3, 6)
    assert len(set(lines(tmp_path / "drawn"))) == len(lines(tmp_path / "drawn")) == 6
    rows = list(read_trace(tmp_path / "trace.jsonl"))
    assert [row.candidate.turn for row in rows if isinstance(row, CandidateRow)] == [1, 1, 2, 2, 3, 3]
    assert [row.decision.turn for row in rows if isinstance(row, DecisionRow)] == [1, 2, 3]


# --- a person approves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [True, {"approved": True}])
def test_an_approved_answer_is_accepted(answer: Any) -> None:
    trace = MemoryTrace()
    graph = solver(GOOD, n=1, approve=True, checkpointer=InMemorySaver(), trace=trace)
    paused = graph.invoke({"problem": PROBLEM}, THREAD)
    assert paused["__interrupt__"][0].value["code"] == GOOD
    solution = graph.invoke(Command(resume=answer), THREAD)["solution"]
    assert (solution["solved"], solution["stop_reason"]) == (True, "accepted")
    decisions = [row.decision for row in trace.rows if isinstance(row, DecisionRow)]
    assert [decision.action for decision in decisions] == ["ask", "accept"]
    assert decisions[-1].reason.endswith("a person approved it")
    assert [type(row) for row in trace.rows].count(CandidateRow) == 1


def test_a_rejection_is_fed_back_and_the_next_turn_asks_again() -> None:
    model = ScriptedModel(replies=[fenced(GOOD), fenced("def f(x):\n    return 1 + x + 1 - 1")])
    sandbox = RuleSandbox(lambda code: "x + 1" in code)
    graph = create_solver(model, sandbox=sandbox, n=1, approve=True, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD)
    paused = graph.invoke(Command(resume={"approved": False, "comment": "Use no literal 1."}), THREAD)
    assert "A reviewer rejected the code: Use no literal 1." in str(model.seen[1][-1].content)
    assert "1 + x" in paused["__interrupt__"][0].value["code"]
    assert graph.invoke(Command(resume=True), THREAD)["solution"]["best"]["turn"] == 2


def test_a_rejection_of_the_last_turn_stops_unsolved() -> None:
    graph = solver(GOOD, n=1, max_turns=1, approve=True, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD)
    solution = graph.invoke(Command(resume=False), THREAD)["solution"]
    assert (solution["solved"], solution["stop_reason"]) == (False, "rejected")


def test_an_answer_that_is_no_review_is_asked_again() -> None:
    graph = solver(GOOD, n=1, approve=True, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD)
    paused = graph.invoke(Command(resume="yes"), THREAD)
    assert "'yes' is no review" in paused["__interrupt__"][0].value["error"]
    assert graph.invoke(Command(resume=True), THREAD)["solution"]["solved"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_approval_waits_under_every_durability(durability: Any) -> None:
    graph = solver(BAD, GOOD, n=1, approve=True, checkpointer=InMemorySaver())
    assert "__interrupt__" in graph.invoke({"problem": PROBLEM}, THREAD, durability=durability)
    assert graph.invoke(Command(resume=True), THREAD, durability=durability)["solution"]["turns"] == 2


def test_a_new_problem_on_a_thread_that_waits_for_a_person_starts_clean() -> None:
    graph = solver(GOOD, n=1, approve=True, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD)
    paused = graph.invoke({"problem": {**PROBLEM, "id": "other"}}, THREAD)
    assert [question.value["problem_id"] for question in paused["__interrupt__"]] == ["other"]
    solution = graph.invoke(Command(resume=True), THREAD)["solution"]
    assert (solution["problem_id"], solution["usage"]["candidates"]) == ("other", 1)


def test_a_solve_that_a_dead_server_ended_goes_on_where_it_stood() -> None:
    model = ScriptedModel(replies=[fenced(BAD), ConnectionError("refused"), fenced(GOOD)])
    sandbox = RuleSandbox(lambda code: "x + 1" in code)
    graph = create_solver(model, sandbox=sandbox, n=1, checkpointer=InMemorySaver())
    with pytest.raises(InfrastructureError, match="refused"):
        graph.invoke({"problem": PROBLEM}, THREAD)
    solution = graph.invoke(None, THREAD)["solution"]
    assert (solution["solved"], solution["turns"], solution["usage"]["candidates"]) == (True, 2, 2)
    assert (len(model.seen), len(sandbox.jobs)) == (2 + 1, 2)


def test_approval_works_inside_a_parent_that_has_the_saver() -> None:
    class State(TypedDict, total=False):
        problem: dict[str, Any]
        solution: dict[str, Any]

    graph = StateGraph(State)
    graph.add_node("solve", solver(BAD, GOOD, n=1, approve=True))
    graph.add_edge(START, "solve")
    parent = graph.compile(checkpointer=InMemorySaver())
    assert "__interrupt__" in parent.invoke({"problem": PROBLEM}, THREAD)
    assert parent.invoke(Command(resume=True), THREAD)["solution"]["turns"] == 2


def test_approval_works_in_a_node_that_calls_the_solver_under_a_parents_saver() -> None:
    class State(TypedDict, total=False):
        task: dict[str, Any]
        result: dict[str, Any]

    graph = StateGraph(State)
    add_solver(graph, solver(GOOD, n=1, approve=True), problem="task", solution="result")
    graph.add_edge(START, "solve")
    parent = graph.compile(checkpointer=InMemorySaver())
    assert "__interrupt__" in parent.invoke({"task": PROBLEM}, THREAD)
    assert parent.invoke(Command(resume=True), THREAD)["result"]["solved"]


@pytest.mark.parametrize("embedded", [False, True])
@pytest.mark.parametrize("config", [None, THREAD])
def test_approval_without_a_checkpointer_is_refused_before_anything_is_drawn(embedded: bool, config: Any) -> None:
    class State(TypedDict, total=False):
        problem: dict[str, Any]
        solution: dict[str, Any]

    model = ScriptedModel(replies=[fenced(GOOD)])
    graph: Any = create_solver(model, sandbox=RuleSandbox(lambda _: True), n=1, approve=True)
    if embedded:
        parent = StateGraph(State)
        parent.add_node("solve", graph)
        parent.add_edge(START, "solve")
        graph = parent.compile()
    with pytest.raises(ProblemError, match="without a checkpointer the solve could not resume"):
        graph.invoke({"problem": PROBLEM}, config)
    with pytest.raises(ProblemError, match="without a checkpointer the solve could not resume"):
        asyncio.run(graph.ainvoke({"problem": PROBLEM}, config))
    assert model.seen == []


def test_nothing_that_fails_is_ever_shown_to_the_person() -> None:
    graph = solver(BAD, n=2, approve=True, checkpointer=InMemorySaver())
    assert graph.invoke({"problem": PROBLEM}, THREAD)["solution"]["stop_reason"] == "max_turns"


# --- ended from outside --------------------------------------------------------------------------------------------

ENDLESS = "def f(x):\n    while True: pass"


async def test_cancelling_ainvoke_kills_the_candidates() -> None:
    sandbox = LocalSandbox(workers=1)
    try:
        graph = create_solver(ScriptedModel(replies=[fenced(ENDLESS)]), sandbox=sandbox, n=2)
        task = asyncio.create_task(graph.ainvoke({"problem": {**PROBLEM, "limits": {"time_s": 600}}}))
        await auntil(lambda: busy_programs(os.getpid()))
        candidates = busy_programs(os.getpid())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await auntil(lambda: not alive(candidates))
    finally:
        sandbox.close()


async def test_a_timeout_around_ainvoke_leaves_a_sandbox_that_works() -> None:
    sandbox = LocalSandbox(workers=1)
    try:
        graph = create_solver(ScriptedModel(replies=[fenced(ENDLESS), fenced(GOOD)]), sandbox=sandbox, n=1)
        problem = {**PROBLEM, "limits": {"time_s": 600}}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await graph.ainvoke({"problem": problem})
        assert (await graph.ainvoke({"problem": PROBLEM}))["solution"]["solved"]
    finally:
        sandbox.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ending_the_process_leaves_no_child(signum: int, tmp_path: Path) -> None:
    process = victim(tmp_path, "endless")
    wait_for(tmp_path / "executing", 1, process)
    children = set(descendants(process.pid))
    assert children
    process.send_signal(signum)
    process.communicate()
    until(lambda: not alive(children))


@pytest.mark.parametrize("call", ["stream", "batch", "batch_as_completed"])
def test_an_exception_in_the_calling_thread_ends_the_programs_of_other_threads(call: str, tmp_path: Path) -> None:
    process = victim(tmp_path, f"endless-{call}")
    wait_for(tmp_path / "executing", 1, process)
    children = set(descendants(process.pid))
    until(lambda: busy_programs(process.pid))
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=120) == 9  # the programs may run for 600 seconds
    finally:
        process.kill()
        process.communicate()
    until(lambda: not alive(children))
