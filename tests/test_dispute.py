"""Feedback by disagreement, for problems without tests: what is shown, what is never said, and where it stays away."""

from typing import Any

import pytest
from fakes import ScriptedModel, fenced

from mucode_agent import Problem, create_solver
from mucode_agent.evaluation.testless import without_running
from mucode_agent.graphs.dispute import disputed_input, revealing_job, shown_result
from mucode_agent.prompts import FEEDBACK_CHARS, feedback, prompt_digest, task
from mucode_agent.tools.sandbox import run
from mucode_agent.types import Candidate, CodeTest, ExecutionReport, Sample, Sandbox, TestResult

PROBLEM = Problem(id="inc", prompt="Add one: inc(1) is 2, and inc(-7) is -6.", entry_point="inc")
ONE, TWO = "def inc(x):\n    return x + 1", "def inc(x):\n    return abs(x) + 1"
ENDS = "def inc(x):\n    return 10 // (x - 1)"
ASKED = {"n": 3, "max_turns": 2, "show_dispute": True, "accept_threshold": 1.0, "trust_calibration": True}


def candidate(index: int, *behaviour: str) -> Candidate:
    report = ExecutionReport(status="unjudged", behaviour=behaviour)
    return Candidate(turn=1, index=index, sample=Sample(text="", seed=0), code="x", report=report)


@pytest.mark.parametrize(
    ("rows", "best", "expected"),
    [
        ([("= a", "= b", "= c"), ("= a", "= x", "= y"), ("= a", "= b", "= y")], 0, "c"),
        ([("= a", "= b"), ("= a", "= b")], 0, ""),  # all agree
        ([("= a", "raise ValueError"), ("= b", "= b"), ("= b", "= b")], 0, "a"),  # of equals the first
        ([("= a", "raise ValueError"), ("= a", "= b"), ("= a", "= c")], 0, "b"),  # an exception is an outcome
        ([("= a", "raise TypeError"), ("= a", "raise TypeError"), ("= a", "= c")], 0, ""),  # no valid input
        ([("", ""), ("= a", "= b"), ("= b", "= b")], 0, ""),  # its own outcomes are unknown
        ([(), ("= a", "= b")], 0, ""),
    ],
)
def test_the_input_is_the_one_on_which_most_others_differ(rows: Any, best: int, expected: str) -> None:
    candidates = [candidate(i, *row) for i, row in enumerate(rows)]
    assert disputed_input(["a", "b", "c"][: max(map(len, rows))], candidates, candidates[best]) == expected


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (ONE, "2"),
        (ENDS, "ZeroDivisionError"),
        ("def inc(x):\n    return {1: 'two'}", "{1: 'two'}"),
    ],
)
def test_the_value_comes_from_one_more_run(sandbox: Sandbox, code: str, words: str) -> None:
    assert words in shown_result(run(sandbox, [revealing_job(PROBLEM, code, "inc(1)")])[0])


def test_of_a_run_that_gave_no_value_its_end_is_told_or_nothing() -> None:
    for status, words in (("timeout", "timeout"), ("early_exit", "early exit"), ("unjudged", ""), ("skipped", "")):
        result = TestResult.model_validate({"status": status})
        assert shown_result(ExecutionReport(status=result.status, results=(result,))) == words
    assert shown_result(ExecutionReport(status="infra", error="the worker could not start")) == ""


def test_of_a_program_for_standard_input_the_output_is_shown(sandbox: Sandbox) -> None:
    problem = Problem(id="p", prompt="Print the sum.")
    [report] = run(sandbox, [revealing_job(problem, "print(sum(map(int, input().split())))", "3 4\n")])
    assert shown_result(report) == "7"


def solved(sandbox: Sandbox, problem: Problem, *replies: str, **settings: Any) -> list[str]:
    """The second turn's last messages, one a request."""
    model = ScriptedModel(replies=[fenced(reply) for reply in replies])
    with create_solver(model, sandbox=sandbox, **ASKED | settings) as solver:
        solver.invoke({"problem": problem.model_dump(mode="json")})
    return [str(messages[-1].content) for messages in model.seen if len(messages) > 1]


def test_without_tests_the_next_turn_sees_an_input_and_what_the_program_gave(sandbox: Sandbox) -> None:
    said = solved(sandbox, PROBLEM, ONE, ONE, TWO)
    assert said
    assert all("Other programs for this task give another result on this input:\ninc(-" in text for text in said)
    assert all("This code gives: -" in text and "Nobody knows which is right." in text for text in said)


async def test_the_asynchronous_graph_says_the_same(sandbox: Sandbox) -> None:
    model = ScriptedModel(replies=[fenced(reply) for reply in (ONE, ONE, TWO)])
    with create_solver(model, sandbox=sandbox, **ASKED) as solver:
        await solver.ainvoke({"problem": PROBLEM.model_dump(mode="json")})
    said = [str(messages[-1].content) for messages in model.seen if len(messages) > 1]
    assert said == solved(sandbox, PROBLEM, ONE, ONE, TWO)


@pytest.mark.parametrize(
    ("problem", "replies", "settings"),
    [
        (PROBLEM, (ONE, ONE, TWO), {"show_dispute": False}),
        (PROBLEM, (ONE, ONE, ONE), {}),
        (PROBLEM.model_copy(update={"public_tests": (CodeTest(code="assert inc(1) == 3"),)}), (ONE, ONE, TWO), {}),
    ],
    ids=["not asked for", "no disagreement", "there are tests"],
)
def test_elsewhere_feedback_is_as_before(
    sandbox: Sandbox, problem: Problem, replies: tuple[str, ...], settings: dict[str, Any]
) -> None:
    said = solved(sandbox, problem, *replies, **settings)
    assert said
    assert not any("Other programs" in text for text in said)


def test_its_words_count_only_where_they_are_shown() -> None:
    assert prompt_digest(True) != prompt_digest(False) == prompt_digest()


def test_a_dispute_is_bounded() -> None:
    text = feedback(None, "", "f(" + "1" * 5000 + ")", "2" * 5000)
    assert len(text) <= FEEDBACK_CHARS
    assert text.endswith("in one ```python block.")


def test_tests_that_do_not_run_change_no_word_of_the_task_and_judge_at_the_end() -> None:
    tested = Problem(
        id="p",
        prompt="Add one.\n",
        entry_point="inc",
        public_tests=(CodeTest(code="assert inc(1) == 2"),),
        private_tests=(CodeTest(code="assert inc(2) == 3"),),
    )
    bare = without_running(tested)
    assert task(bare) == task(tested)
    assert bare.public_tests == ()
    assert bare.judge_job("x").tests == tested.judge_job("x").tests
    hidden = tested.model_copy(update={"show_tests": False})
    assert task(without_running(hidden)) == task(hidden)
