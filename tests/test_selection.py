"""Ranking, and what the route decides."""

from typing import Any

import pytest

from mucode_agent.graphs.selection import SELECTORS, Selector, best_over_turns, decide, normal_form, select
from mucode_agent.types import Budget, Candidate, ExecutionReport, ProblemError, Sample, Score, TestResult, Usage


def candidate(
    passed: int = 0,
    tests: int = 3,
    logit: float = 0.0,
    *,
    probability: float | None = None,
    index: int = 0,
    turn: int = 1,
) -> Candidate:
    results = [TestResult(status="passed")] * passed + [TestResult(status="wrong_answer")] * (tests - passed)
    status = "unjudged" if not tests else "passed" if passed == tests else "wrong_answer"
    return Candidate(
        turn=turn,
        index=index,
        sample=Sample(text="", seed=0),
        code="x",
        report=ExecutionReport(status=status, results=tuple(results)),
        score=Score(logit=logit, probability=probability),
    )


def decision(best: Candidate, **changes: Any) -> Any:
    state: dict[str, Any] = {
        "has_tests": True,
        "turn": 1,
        "max_turns": 3,
        "drawn": 5,
        "n": 5,
        "usage": Usage(candidates=5, prompt_tokens=60, completion_tokens=40, seconds=1.0),
        "budget": Budget(),
    }
    return decide(best, **{**state, **changes})


@pytest.mark.parametrize("selector", ["tests", "tests+verifier"])
def test_no_score_lifts_a_failing_candidate_above_a_passing_one(selector: Selector) -> None:
    assert select([candidate(2, logit=1e9), candidate(3, logit=-1e9)], selector) == 1


def test_tests_plus_verifier_breaks_ties_by_the_score() -> None:
    assert select([candidate(3, logit=0.1), candidate(3, logit=0.2)], "tests+verifier") == 1
    assert select([candidate(3, logit=0.1), candidate(3, logit=0.2)], "tests") == 0


def test_verifier_alone_ignores_the_tests() -> None:
    assert select([candidate(3, logit=0.1), candidate(0, logit=0.2)], "verifier") == 1


def test_random_is_seeded_and_reaches_every_candidate() -> None:
    drawn = [candidate(index=i) for i in range(4)]
    assert [select(drawn, "random", seed=s) for s in range(50)] == [select(drawn, "random", seed=s) for s in range(50)]
    assert {select(drawn, "random", seed=s) for s in range(50)} == {0, 1, 2, 3}


@pytest.mark.parametrize("selector", ["tests", "verifier", "tests+verifier"])
def test_a_run_that_the_sandbox_failed_is_never_preferred(selector: Selector) -> None:
    broken = candidate().model_copy(update={"report": ExecutionReport(status="infra"), "score": Score(logit=9.0)})
    assert select([broken, candidate(0)], selector) == 1


@pytest.mark.parametrize("selector", ["tests", "tests+verifier"])
def test_what_a_program_makes_unjudged_is_neither_preferred_to_a_pass_nor_accepted(selector: Selector) -> None:
    results = (TestResult(status="passed"), TestResult(status="passed"), TestResult(status="unjudged"))
    report = ExecutionReport(status="unjudged", results=results)
    unjudged = candidate().model_copy(update={"report": report, "score": Score(logit=1e9, probability=1.0)})
    assert select([unjudged, candidate(3, logit=-1e9)], selector) == 1
    assert best_over_turns([candidate(3, turn=1), unjudged], selector).report == candidate(3).report
    assert decision(unjudged, accept_threshold=0.5, turn=3, drawn=5).action == "stop"


def test_the_answer_is_the_best_over_all_turns_not_the_last() -> None:
    bests = [candidate(1, turn=1), candidate(2, turn=2), candidate(0, turn=3)]
    assert best_over_turns(bests, "tests").turn == 2
    assert best_over_turns(bests, "random").turn == 3


def test_equal_candidates_go_to_the_first() -> None:
    for selector in SELECTORS:
        if selector != "random":
            assert select([candidate(1), candidate(1)], selector) == 0


def test_passing_tests_accept() -> None:
    assert decision(candidate(3)).stop_reason == "accepted"


def test_failing_tests_draw_another_wave_then_another_turn_then_stop() -> None:
    assert decision(candidate(2), drawn=2).action == "draw"
    assert decision(candidate(2)).action == "next_turn"
    assert decision(candidate(2), turn=3).stop_reason == "max_turns"


def test_a_threshold_holds_back_what_the_verifier_doubts() -> None:
    assert decision(candidate(3, probability=0.4), accept_threshold=0.5).action == "next_turn"
    assert decision(candidate(3, probability=0.5), accept_threshold=0.5).action == "accept"


def test_a_threshold_without_a_calibrated_verifier_is_refused() -> None:
    with pytest.raises(ProblemError, match="calibrated"):
        decision(candidate(3), accept_threshold=0.5)


def test_no_tests_and_no_score_is_never_accepted() -> None:
    untested = candidate(0, tests=0, probability=1.0)
    assert decision(untested, has_tests=False, turn=3).stop_reason == "max_turns"
    assert decision(untested, has_tests=False, accept_threshold=0.9).action == "accept"


def test_without_tests_another_turn_follows_only_a_failure_or_a_refusal() -> None:
    untested = candidate(0, tests=0, probability=0.4)
    for threshold in (None, 0.9):
        assert decision(untested, has_tests=False, accept_threshold=threshold).stop_reason == "no_feedback"
        assert decision(untested, has_tests=False, accept_threshold=threshold, drawn=1).action == "draw"
    assert decision(untested, has_tests=False, approval="refused").action == "next_turn"
    broken = untested.model_copy(update={"report": ExecutionReport(status="exception")})
    assert decision(broken, has_tests=False).action == "next_turn"


def test_without_tests_a_program_that_does_not_load_is_never_accepted() -> None:
    broken = candidate(0, tests=0, probability=1.0).model_copy(
        update={"report": ExecutionReport(status="syntax_error")}
    )
    assert decision(broken, has_tests=False, accept_threshold=0.1).action != "accept"


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        (Budget(candidates=5), "max_candidates"),
        (Budget(tokens=100), "max_tokens"),
        (Budget(seconds=1.0), "max_seconds"),
        (Budget(cost=0.001, prompt_price=10, completion_price=10), "max_cost"),
    ],
)
def test_a_used_up_budget_stops(budget: Budget, reason: str) -> None:
    assert decision(candidate(0), budget=budget).stop_reason == reason
    assert decision(candidate(3), budget=budget).stop_reason == "accepted"


def test_too_few_steps_stop_with_the_best_so_far() -> None:
    assert decision(candidate(0), steps_left=False).stop_reason == "recursion_limit"


def test_a_cost_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="cost needs prompt_price"):
        Budget(cost=1.0)


def test_a_pending_approval_turns_acceptance_into_a_question() -> None:
    assert decision(candidate(3), approval="pending").action == "ask"
    assert decision(candidate(3), approval="given").stop_reason == "accepted"


def test_a_refusal_leads_to_the_next_turn_and_never_draws_more_of_the_same_prompt() -> None:
    assert decision(candidate(3), approval="refused", drawn=2).action == "next_turn"
    assert decision(candidate(3), approval="refused", turn=3).stop_reason == "rejected"
    assert decision(candidate(3), approval="refused", budget=Budget(candidates=5)).stop_reason == "rejected"


def test_layout_and_comments_do_not_make_a_program_new() -> None:
    assert normal_form("x=1  # one") == normal_form("x = 1\n")
    assert normal_form("x = 1") != normal_form("x = 2")
    assert normal_form("x = '\ud800") == normal_form("x = '\ud800")
