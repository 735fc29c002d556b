"""What a failure costs: nothing that was paid for is lost, and what may work again is retried."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import pytest
from fakes import BrokenSandbox, RuleSandbox, ScriptedModel, fenced
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from mucode_agent import InfrastructureError, MemoryTrace, ProblemError, create_solver
from mucode_agent.graphs.embed import add_solver
from mucode_agent.traces import CandidateRow, DecisionRow
from mucode_agent.types import Candidate, ContextOverflowError, ExecutionReport, Job, Problem, Score, Solution
from mucode_agent.verifiers import NoVerifier

PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
Run = Callable[[Any], dict[str, Any]]


@pytest.fixture(params=["sync", "async"])
def solve(request: pytest.FixtureRequest) -> Run:
    given = {"problem": PROBLEM}
    if request.param == "sync":
        return lambda graph: graph.invoke(given)["solution"]
    return lambda graph: asyncio.run(graph.ainvoke(given))["solution"]


def solver(model: Any, sandbox: Any = None, **settings: Any) -> Any:
    judge = sandbox or RuleSandbox(lambda code: "x + 1" in code)
    return create_solver(model, sandbox=judge, **{"verifier": "none", "n": 2, **settings})


def test_a_context_overflow_in_turn_three_ends_the_turn_and_not_the_solve(solve: Run) -> None:
    too_long = ValueError("prompt is too long: 9 tokens > 8 maximum")
    model = ScriptedModel(replies=[fenced(BAD)] * 4 + [too_long])
    trace = MemoryTrace()
    solution = solve(solver(model, trace=trace))
    assert (solution["solved"], solution["stop_reason"], solution["turns"]) == (False, "context_overflow", 2)
    assert solution["best"]["code"] == BAD
    assert solution["usage"]["candidates"] == 4
    last = trace.rows[-1]
    assert isinstance(last, DecisionRow)
    assert last.solution is not None
    assert "do not fit the context" in last.decision.reason


def test_a_context_overflow_in_the_first_turn_is_the_callers_to_fix(solve: Run) -> None:
    model = ScriptedModel(replies=[ValueError("exceed_context_size_error")])
    with pytest.raises(ContextOverflowError, match="shorten the prompt"):
        solve(solver(model))


def test_a_failure_carries_the_best_so_far(solve: Run) -> None:
    with pytest.raises(InfrastructureError, match="boom") as failure:
        solve(solver(ScriptedModel(replies=[fenced(BAD), fenced(BAD), OSError("boom")])))
    assert isinstance(failure.value.solution, Solution)
    assert failure.value.solution.code == BAD
    assert failure.value.solution.stop_reason == "failure"


def test_a_failure_before_any_candidate_carries_none(solve: Run) -> None:
    with pytest.raises(InfrastructureError) as failure:
        solve(solver(ScriptedModel(replies=[OSError("boom")]), partial=True))
    assert failure.value.solution is None


def test_on_request_a_failure_ends_the_solve_with_the_best_so_far(solve: Run) -> None:
    trace = MemoryTrace()
    model = ScriptedModel(replies=[fenced(BAD), fenced(BAD), OSError("boom")])
    solution = solve(solver(model, trace=trace, partial=True))
    assert (solution["solved"], solution["stop_reason"], solution["best"]["code"]) == (False, "failure", BAD)
    assert [type(row) for row in trace.rows].count(CandidateRow) == 2


def test_of_n_requests_those_that_succeeded_are_kept_and_the_rest_is_asked_for_again() -> None:
    trace = MemoryTrace()
    first = ScriptedModel(replies=[fenced(BAD)])
    solve_once = solver(first, n=1, max_turns=1)
    solve_once.invoke({"problem": PROBLEM})
    asked: list[int] = []

    def reply(_: object, options: dict[str, Any]) -> str:
        offset = options["seed"] - first.seeds[0]
        asked.append(offset)
        if offset in (1, 3) and asked.count(offset) == 1:
            raise OSError("lost")
        return fenced(f"def f(x):\n    return {offset}")

    model = ScriptedModel(replies=reply, native_n=False)
    graph = solver(model, n=5, max_turns=1, trace=trace)
    solution = graph.invoke({"problem": PROBLEM}, {"max_concurrency": 8})["solution"]
    seeds = [row.candidate.sample.seed - first.seeds[0] for row in trace.rows if isinstance(row, CandidateRow)]
    assert sorted(seeds) == [0, 1, 2, 3, 4]
    assert solution["usage"]["candidates"] == 5
    assert all(asked.count(offset) == 1 for offset in set(range(5)) - {1, 3})


class Raising:
    """A sandbox or verifier of somebody else's, with its own errors."""

    name, isolation, calibrated_on, accept_threshold = "theirs", "none", None, None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def submit(self, job: Job) -> Any:
        raise self.error

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [KeyError("x"), OSError("disk"), RuntimeError("closed"), ValueError("bad")])
@pytest.mark.parametrize("part", ["sandbox", "verifier"])
def test_whatever_a_sandbox_or_verifier_raises_is_an_infrastructure_failure(
    solve: Run, part: str, error: Exception
) -> None:
    with pytest.raises(InfrastructureError, match=type(error).__name__) as failure:
        solve(solver(ScriptedModel(replies=[fenced(BAD)]), **{part: Raising(error)}))
    assert failure.value.__cause__ is error


class Once(NoVerifier):
    def __init__(self) -> None:
        self.calls = 0

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        self.calls += 1
        if self.calls == 1:
            raise KeyError("not yet")
        return super().score(problem, candidates)


class Host(TypedDict, total=False):
    problem: dict[str, Any]
    solution: dict[str, Any]


def test_langgraphs_default_retry_policy_retries_an_infrastructure_failure(solve: Run) -> None:
    verifier = Once()
    parent = StateGraph(Host)
    policy = RetryPolicy(initial_interval=0.01, jitter=False)
    add_solver(parent, solver(ScriptedModel(replies=[fenced(GOOD)]), verifier=verifier), retry_policy=policy)
    parent.add_edge(START, "solve")
    assert solve(parent.compile())["solved"]
    assert verifier.calls == 2


def test_the_best_so_far_of_a_broken_sandbox_is_that_of_earlier_turns(solve: Run) -> None:
    class Breaking(RuleSandbox):
        def _report(self, job: Job) -> ExecutionReport:
            return super()._report(job) if len(self.jobs) == 1 else BrokenSandbox()._report(job)

    replies = [fenced(BAD), fenced(BAD), fenced("def f(x):\n    return 7")]
    solution = solve(solver(ScriptedModel(replies=replies), Breaking(lambda _: False), partial=True))
    assert (solution["stop_reason"], solution["best"]["turn"]) == ("failure", 1)


# --- checkpoints of other versions ---------------------------------------------------------------------------------

THREAD: Any = {"configurable": {"thread_id": "1"}}


def paused() -> Any:
    model = ScriptedModel(replies=[fenced(BAD), fenced(BAD), fenced(GOOD)])
    graph = solver(model, checkpointer=InMemorySaver())
    graph.invoke({"problem": PROBLEM}, THREAD, interrupt_before=["execute"])
    return graph


def test_fields_of_a_newer_version_in_a_checkpoint_are_passed_over() -> None:
    graph = paused()
    state = graph.get_state(THREAD).values
    samples = [{**sample, "newer": 1} for sample in state["samples"]]
    problem = {**state["problem"], "newer": {"a": 1}}
    graph.update_state(THREAD, {"samples": samples, "problem": problem, "usage": {**state["usage"], "newer": 2}})
    assert graph.invoke(None, THREAD)["solution"]["solved"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"version": 2}, "written by a newer mucode_agent"), ({"usage": {"candidates": "many"}}, "cannot read")],
)
def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_sentence(change: dict[str, Any], words: str) -> None:
    graph = paused()
    graph.update_state(THREAD, change)
    with pytest.raises(ProblemError, match=words) as refusal:
        graph.invoke(None, THREAD)
    assert "\n" not in str(refusal.value)
