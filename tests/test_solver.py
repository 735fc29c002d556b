"""The graph: what it asks, runs, selects and returns, with scripted models; real ones stand in test_real.py."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_args

import pytest
from fakes import BrokenSandbox, LengthVerifier, RuleSandbox, ScriptedModel, fenced
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import Field

import mucode_agent.graphs.solver as solver_module
from mucode_agent import (
    Budget,
    InfrastructureError,
    JsonlTrace,
    MemoryTrace,
    Problem,
    ProblemError,
    Solution,
    create_solver,
)
from mucode_agent.graphs.selection import SELECTORS
from mucode_agent.graphs.solver import Settings
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, read_trace
from mucode_agent.types import Candidate, CodeTest, ExecutionReport, Job, Score, StopReason

GOOD, BAD, WORSE = "def f(x):\n    return x + 1", "def f(x):\n    return x", "def f(x):\n    return 0"
SECRET = "41414141"
PROBLEM = Problem(
    id="inc",
    prompt="Add one.",
    entry_point="f",
    public_tests=(CodeTest(code="assert f(1) == 2"),),
    private_tests=(CodeTest(code=f"assert f({SECRET}) == 41414142"),),
    reference=f"def f(x): return x + 1 if x != {SECRET} else 41414142",
)


def passes(code: str) -> bool:
    return "x + 1" in code


def solver(replies: list[str], **settings: Any) -> tuple[Any, ScriptedModel, RuleSandbox]:
    model, sandbox = ScriptedModel(replies=[fenced(reply) for reply in replies]), RuleSandbox(passes)
    return create_solver(model, sandbox=sandbox, **settings), model, sandbox


def solve(graph: Any, problem: Problem = PROBLEM) -> Solution:
    return Solution.model_validate(graph.invoke({"problem": problem.model_dump(mode="json")})["solution"])


def test_the_first_passing_candidate_is_the_answer() -> None:
    graph, _, _ = solver([BAD, GOOD], n=2)
    solution = solve(graph)
    assert (solution.solved, solution.code, solution.stop_reason) == (True, GOOD, "accepted")
    assert (solution.turns, solution.usage.candidates, solution.best.index) == (1, 2, 1)


def test_a_failure_is_fed_back_and_the_next_turn_solves() -> None:
    graph, model, _ = solver([BAD, GOOD], n=1)
    solution = solve(graph)
    assert (solution.solved, solution.turns) == (True, 2)
    assert isinstance(model.seen[1][1], AIMessage)
    assert "Feedback:" in str(model.seen[1][2].content)


def test_the_answer_is_the_best_over_all_turns() -> None:
    graph, _, _ = solver([BAD, WORSE, BAD], n=1, selector="verifier", verifier=LengthVerifier())
    solution = solve(graph)
    assert (solution.solved, solution.stop_reason, solution.best.turn) == (False, "max_turns", 1)


@pytest.mark.parametrize("selector", SELECTORS)
def test_private_tests_never_reach_a_prompt_a_score_or_the_selection(selector: str) -> None:
    trace, verifier = MemoryTrace(), LengthVerifier(calibrated=True)
    graph, model, sandbox = solver([BAD], n=2, selector=selector, verifier=verifier, trace=trace)
    events = list(graph.stream({"problem": PROBLEM.model_dump(mode="json")}, stream_mode=["custom", "updates"]))
    assert len(model.seen) == 6
    for place in (model.seen, sandbox.jobs, verifier.seen, events, trace.rows):
        assert place
        assert SECRET not in str(place)


def test_early_acceptance_is_refused_on_a_calibration_made_for_another_generator() -> None:
    verifier = LengthVerifier("someone-else")
    graph, _, _ = solver([GOOD], n=1, verifier=verifier, accept_threshold=0.1)
    with pytest.raises(ProblemError, match="calibrated on programs of someone-else, not of scripted"):
        solve(graph)
    graph, _, _ = solver([GOOD], n=1, verifier=verifier, accept_threshold=0.1, trust_calibration=True)
    assert solve(graph).solved


def test_another_generators_calibration_is_a_warning_in_the_trace_and_the_own_one_is_none() -> None:
    for generators, warned in (("someone-else", True), ("scripted", False)):
        trace = MemoryTrace()
        graph, _, _ = solver([GOOD], n=1, verifier=LengthVerifier(generators), trace=trace)
        solve(graph)
        assert ("warning" in trace.rows[0].settings) == warned


def test_a_threshold_without_probabilities_is_refused_before_anything_is_drawn() -> None:
    for verifier in ("none", "agreement", LengthVerifier()):
        graph, model, _ = solver([GOOD], n=1, verifier=verifier, accept_threshold=0.5)
        with pytest.raises(ProblemError, match="accept_threshold needs a calibrated verifier"):
            solve(graph)
        assert model.seen == []


def test_async_and_sync_give_the_same_trace() -> None:
    rows = []
    for run in ("sync", "async"):
        trace = MemoryTrace()
        graph, _, _ = solver([BAD, WORSE, GOOD], n=2, trace=trace)
        given = {"problem": PROBLEM.model_dump(mode="json")}
        _ = graph.invoke(given) if run == "sync" else asyncio.run(graph.ainvoke(given))
        rows.append([row.model_dump(exclude={"solution": {"usage": {"seconds"}}}) for row in trace.rows])
    assert rows[0] == rows[1]


def test_every_sample_has_its_own_seed_and_the_same_seeds_come_again() -> None:
    seeds = []
    for _ in range(2):
        graph, model, _ = solver([BAD], n=3, max_turns=2, seed=7)
        solve(graph)
        seeds.append(sorted(model.seeds))
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 6


def test_a_larger_n_keeps_the_samples_of_a_smaller_one() -> None:
    drawn = []
    for n in (1, 3):
        graph, model, _ = solver([BAD], n=n, max_turns=1)
        solve(graph)
        drawn.append(set(model.seeds))
    assert drawn[0] < drawn[1]


def test_a_wave_that_succeeds_saves_the_rest_of_the_turn() -> None:
    graph, model, _ = solver([BAD, BAD, GOOD, BAD], n=8, wave=2)
    assert solve(graph).usage.candidates == 4
    assert len(set(model.seeds)) == 4


def test_duplicates_run_once() -> None:
    graph, _, sandbox = solver([BAD, BAD + "  # again", WORSE], n=3, max_turns=1)
    solve(graph)
    assert len(sandbox.jobs) == 2


def test_a_model_of_prose_only_is_told_so_and_never_run() -> None:
    model, sandbox = ScriptedModel(replies=["I cannot do that."]), RuleSandbox(passes)
    solution = solve(create_solver(model, sandbox=sandbox, n=2, max_turns=2))
    assert (solution.solved, solution.code, sandbox.jobs) == (False, "", [])
    assert "no Python code" in str(model.seen[-1][-1].content)


def test_no_tests_are_never_accepted() -> None:
    graph, _, _ = solver([GOOD], n=1)
    solution = solve(graph, TESTLESS)
    assert (solution.solved, solution.stop_reason, solution.code) == (False, "no_feedback", GOOD)


def test_without_tests_only_a_program_that_does_not_run_is_repaired() -> None:
    model = ScriptedModel(replies=[fenced("import nothing_of_this_name"), fenced(GOOD)])
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        solution = solve(create_solver(model, sandbox=sandbox, n=1, max_turns=3), TESTLESS)
    assert (solution.stop_reason, solution.turns, solution.code) == ("no_feedback", 2, GOOD)
    assert "nothing_of_this_name" in str(model.seen[-1][-1].content)


def test_a_calibrated_verifier_accepts_without_tests() -> None:
    graph, _, _ = solver([GOOD], n=1, verifier=LengthVerifier(calibrated=True), accept_threshold=0.2)
    assert solve(graph, PROBLEM.model_copy(update={"public_tests": ()})).solved


TESTLESS = PROBLEM.model_copy(update={"public_tests": (), "private_tests": (), "reference": None})


def test_without_tests_the_behaviour_that_most_candidates_share_is_the_answer() -> None:
    replies = [*map(fenced, [BAD, "def f(y): return y + 1", WORSE, GOOD])]
    for verifier in ("evidence", "agreement"):
        with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
            model = ScriptedModel(replies=replies)
            graph = create_solver(model, sandbox=sandbox, n=4, max_turns=1, verifier=verifier)
            solution = solve(graph, TESTLESS.model_copy(update={"prompt": "Add one, as in f(1) and f(5)."}))
        assert (solution.solved, solution.best.index) == (False, 1)
        assert solution.best.report is not None
        assert all(outcome.startswith("= ") for outcome in solution.best.report.behaviour)
        assert solution.usage.candidates == 4


def test_the_whole_group_is_scored_again_at_every_wave_duplicates_kept() -> None:
    verifier = LengthVerifier()
    graph, _, sandbox = solver([BAD, BAD, WORSE], n=3, wave=1, max_turns=1, verifier=verifier)
    solve(graph)
    assert [[c.code for c in seen] for _, seen in verifier.seen] == [[BAD], [BAD, BAD], [BAD, BAD, WORSE]]
    assert [job.code for job in sandbox.jobs] == [BAD, WORSE]


def test_probes_are_the_arguments_of_public_calls_and_never_of_private_ones() -> None:
    graph, _, sandbox = solver([GOOD], n=1, probes=6)
    solve(graph)
    [job] = sandbox.jobs
    assert job.probes[0] == "f(1)"
    assert len(job.probes) == 6
    assert SECRET not in str(job.probes)


def test_without_any_call_the_parameters_of_the_candidates_give_the_probes() -> None:
    graph, model, sandbox = solver([GOOD], n=2, max_turns=1)
    assert solve(graph, TESTLESS).best.code == GOOD
    assert len(model.seen) == 2
    assert len(sandbox.jobs[0].probes) > 10
    assert all(probe.startswith("f(") for probe in sandbox.jobs[0].probes)


def test_the_model_may_propose_further_probes() -> None:
    model, sandbox = ScriptedModel(replies=["```\nf(77)\nf(-1)\n```", fenced(GOOD)]), RuleSandbox(passes)
    solve(create_solver(model, sandbox=sandbox, n=1, max_turns=1, proposed_probes=1, probes=4), TESTLESS)
    assert sandbox.jobs[0].probes[:1] == ("f(77)",)
    assert len(model.seen) == 2


def test_no_probes_where_none_are_wanted() -> None:
    graph, _, sandbox = solver([GOOD], n=1, probes=0)
    solve(graph)
    assert sandbox.jobs[0].probes == ()


def test_a_verifiers_own_threshold_accepts_without_tests_where_its_calibration_holds() -> None:
    for generator, solved in (("scripted", True), ("someone-else", False)):
        verifier = LengthVerifier(generator)
        verifier.accept_threshold = 0.2
        graph, _, _ = solver([GOOD], n=1, max_turns=1, verifier=verifier)
        assert solve(graph, TESTLESS).solved is solved


def test_a_wave_that_adds_too_little_is_the_last_of_its_turn() -> None:
    graph, model, _ = solver([BAD], n=5, wave=1, max_turns=1, verifier=LengthVerifier(calibrated=True), least_gain=0.01)
    solution = solve(graph)
    assert (len(model.seen), solution.stop_reason) == (2, "max_turns")


def test_without_a_least_gain_waves_go_on_though_the_probability_falls() -> None:
    class Falling(LengthVerifier):
        def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
            scores = super().score(problem, candidates)
            return [score.model_copy(update={"probability": 1 / (1 + len(candidates))}) for score in scores]

    graph, model, _ = solver([BAD], n=4, wave=1, max_turns=1, verifier=Falling(calibrated=True))
    solve(graph)
    assert len(model.seen) == 4


def test_a_budget_of_candidates_is_never_exceeded() -> None:
    graph, model, _ = solver([BAD], n=4, max_turns=5, budget=Budget(candidates=6))
    assert (solve(graph).stop_reason, len(model.seen)) == ("max_candidates", 6)


def test_a_budget_of_cost_counts_prompt_and_completion() -> None:
    budget = Budget(cost=0.00007, prompt_price=1, completion_price=2)  # 20 millionths a sample
    graph, model, _ = solver([BAD], n=1, max_turns=9, budget=budget)
    assert (solve(graph).stop_reason, len(model.seen)) == ("max_cost", 4)


def test_a_broken_sandbox_is_an_error_not_a_failed_test() -> None:
    graph = create_solver(ScriptedModel(replies=[fenced(GOOD)]), sandbox=BrokenSandbox(), n=2)
    with pytest.raises(InfrastructureError, match="the worker could not start"):
        solve(graph)


class RefusingSandbox(RuleSandbox):
    def submit(self, job: Job) -> Future[ExecutionReport]:
        raise InfrastructureError("no room")


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_sandbox_that_takes_no_job_is_one_clear_error(run: str) -> None:
    model = ScriptedModel(replies=[fenced(GOOD), fenced(BAD)])
    graph = create_solver(model, sandbox=RefusingSandbox(passes), n=2)
    given: Any = {"problem": PROBLEM.model_dump(mode="json")}
    with pytest.raises(InfrastructureError, match="no room"):
        _ = graph.invoke(given) if run == "sync" else asyncio.run(graph.ainvoke(given))


def test_a_plain_runnable_is_a_model() -> None:
    graph = create_solver(RunnableLambda(lambda _: AIMessage(fenced(GOOD))), sandbox=RuleSandbox(passes), n=2)
    assert solve(graph).solved


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"max_turns": 0}, "max_turns must be"),
        ({"selector": "best"}, "selector must be"),
        ({"accept_threshold": 2}, "accept_threshold must be"),
        ({"temperature": -1}, "temperature must be"),
        ({"budget": {"token": 3}}, "budget.token is unknown; known are candidates, tokens"),
        ({"turns": 3}, "turns is unknown; known are "),
    ],
)
def test_a_bad_setting_is_refused_when_the_graph_is_built(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        solver([GOOD], **settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": None}, "model must be a model string, a chat model or a runnable, got NoneType"),
        ({"model": ScriptedModel}, "got the class ScriptedModel"),
        ({"model": lambda messages: "x"}, "got function; wrap a function in RunnableLambda"),
        ({"sandbox": None}, "sandbox must be 'local', 'e2b' or an object with submit, got NoneType"),
        ({"verifier": 3}, "verifier must be a string or have a method score, got int"),
        ({"trace": "t.jsonl"}, r"trace must have a method write, such as JsonlTrace(path), got str"),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused_when_the_graph_is_built(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        create_solver(**{"model": "smollm2", **parts})
    assert words in str(caught.value)


@pytest.mark.parametrize("given", ["Write f.", ["Write f."], 3])
def test_a_problem_that_is_no_object_is_named(given: Any) -> None:
    graph, _, _ = solver([GOOD])
    with pytest.raises(ProblemError, match="a problem is an object with a prompt and tests, got"):
        graph.invoke({"problem": given})


@pytest.mark.parametrize("given", [{}, {"problem": {}}, {"problem": None}])
def test_a_missing_problem_is_named(given: dict[str, Any]) -> None:
    graph, _, _ = solver([GOOD])
    with pytest.raises(ProblemError, match="no key 'problem'"):
        graph.invoke(given or {"problem": {}})


def test_published_rows_are_problems_too() -> None:
    graph, _, _ = solver([GOOD], n=1)
    row = {"text": "Add one.", "task_id": 1, "test_list": ["assert f(1) == 2"], "code": GOOD}
    assert graph.invoke({"problem": row})["solution"]["problem_id"] == "MBPP/1"


def test_the_trace_tells_the_whole_run() -> None:
    trace = MemoryTrace()
    graph, _, _ = solver([BAD, GOOD], n=1, trace=trace)
    solution = solve(graph)
    kinds = [type(row) for row in trace.rows]
    assert kinds == [ProblemRow, CandidateRow, DecisionRow, CandidateRow, DecisionRow]
    last = trace.rows[-1]
    assert isinstance(last, DecisionRow)
    assert last.solution == solution


def test_events_tell_turns_runs_scores_selection_and_route() -> None:
    graph, _, _ = solver([BAD, GOOD], n=1)
    events = list(graph.stream({"problem": PROBLEM.model_dump(mode="json")}, stream_mode="custom"))
    names = [event["event"].removeprefix("mucode.") for event in events]
    assert names == ["turn_started", "candidate_executed", "candidate_scored", "selected", "routed"] * 2
    assert json.loads(json.dumps(events)) == events


def test_messages_are_rendered_from_the_problem_at_every_turn() -> None:
    graph, model, _ = solver([BAD], n=1, max_turns=3)
    solve(graph)
    assert [len(messages) for messages in model.seen] == [1, 3, 5]
    assert all(isinstance(messages[0], HumanMessage) for messages in model.seen)


def test_the_documented_settings_events_and_stop_reasons_are_the_real_ones() -> None:
    page = (Path(__file__).parents[1] / "docs/graph.md").read_text()
    cells = [name for line in page.splitlines() if line.startswith("|") for name in re.findall(r"`([\w.]+)`", line)]
    assert set(Settings.model_fields) <= set(cells)
    assert set(get_args(StopReason)) <= set(cells)
    emitted = set(re.findall(r'_emit\(\s*"(\w+)"(?: if .*? else "(\w+)")?', Path(solver_module.__file__).read_text()))
    names = {f"mucode.{name}" for pair in emitted for name in pair if name}
    assert names == {cell for cell in cells if cell.startswith("mucode.")}


def test_tests_that_can_judge_no_program_are_the_callers_mistake() -> None:
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        graph = create_solver(ScriptedModel(replies=[fenced(GOOD)]), sandbox=sandbox, n=1)
        for test in (
            "import nothing_here\nassert f(1) == 2",
            "raise SystemExit",
            "assert 1 == 1 or f(1)",
        ):
            with pytest.raises(ProblemError, match="can judge no program"):
                solve(graph, PROBLEM.model_copy(update={"public_tests": (CodeTest(code=test),)}))


def test_a_verifier_that_loses_a_score_is_an_infrastructure_failure() -> None:
    class Forgetful(LengthVerifier):
        def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
            return super().score(problem, candidates)[1:]

    graph, _, _ = solver([GOOD], n=1, verifier=Forgetful())
    with pytest.raises(InfrastructureError, match="gave 0 scores for 1 candidates"):
        solve(graph)


class Warm(ScriptedModel):
    temperature: float = 0.1
    felt: list[float] = Field(default_factory=list)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self.felt.append(kwargs.get("temperature", self.temperature))
        return super()._generate(messages, stop, run_manager, **kwargs)


@pytest.mark.parametrize(("settings", "expected"), [({}, 0.1), ({"temperature": 0.9}, 0.9)])
def test_a_model_keeps_its_own_temperature_where_none_is_set(settings: dict[str, Any], expected: float) -> None:
    model = Warm(replies=[fenced(GOOD)])
    solve(create_solver(model, sandbox=RuleSandbox(passes), n=1, **settings))
    assert model.felt == [expected]


def test_a_lone_surrogate_spoils_neither_solve_nor_trace(tmp_path: Path) -> None:
    replies = [fenced("def f(x):\n    raise ValueError('\\ud800')"), fenced(f"# \ud800\n{GOOD}")]
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        graph = create_solver(
            ScriptedModel(replies=replies), sandbox=sandbox, n=1, trace=JsonlTrace(tmp_path / "t.jsonl")
        )
        assert solve(graph).solved
    assert list(read_trace(tmp_path / "t.jsonl"))
