"""What a generator reads."""

import pytest
from fakes import fenced

from mucode_agent.extraction import extract_code
from mucode_agent.prompts import FEEDBACK_CHARS, feedback, render, task
from mucode_agent.types import Candidate, CodeTest, ExecutionReport, Problem, Sample, StdioTest, TestResult, Turn

CODE = "def f(x):\n    return x + 1"
PROBLEM = Problem(
    prompt="Add one.",
    entry_point="f",
    public_tests=(CodeTest(code="assert f(1) == 2"),),
    private_tests=(CodeTest(code="assert f(41) == 42"),),
)
WRONG = ExecutionReport(
    status="wrong_answer",
    results=(
        TestResult(status="passed", test="assert f(0) == 1"),
        TestResult(status="wrong_answer", test="assert f(1) == 2", expected="2", actual="3"),
    ),
)


def turn(text: str, report: ExecutionReport = WRONG) -> Turn:
    return Turn(
        best=Candidate(turn=1, index=0, sample=Sample(text=text, seed=0), code=extract_code(text), report=report),
        candidates=1,
    )


def failing(**fields: object) -> ExecutionReport:
    return ExecutionReport(status=fields["status"], results=(TestResult(**fields),))


def test_the_task_shows_prompt_entry_point_and_public_tests_only() -> None:
    text = task(PROBLEM)
    assert "Add one." in text
    assert "`f`" in text
    assert "assert f(1) == 2" in text
    assert "41" not in text


def test_a_program_problem_shows_input_and_output() -> None:
    text = task(Problem(prompt="Echo.", public_tests=(StdioTest(stdin="ab\n", stdout="ba\n"),)))
    assert "standard input" in text
    assert "Input:\nab\nOutput:\nba" in text


def test_history_is_append_only() -> None:
    turns = [turn(fenced(CODE)), turn("prose"), turn("")]
    for count in range(len(turns)):
        shorter, longer = render(PROBLEM, turns[:count]), render(PROBLEM, turns[: count + 1])
        assert longer[: len(shorter)] == shorter
        assert len(longer) == len(shorter) + 2


def test_feedback_names_the_failing_test_and_both_values() -> None:
    text = feedback(WRONG)
    assert "1 of 2 tests passed" in text
    assert "assert f(1) == 2" in text
    assert "Expected: 2" in text
    assert "Actual: 3" in text


def test_feedback_on_an_exception_shows_the_programs_own_lines() -> None:
    report = failing(
        status="exception",
        test="assert f(1) == 2",
        error="ZeroDivisionError: division by zero",
        traceback=("line 2, in f: return x / 0",),
    )
    assert "ZeroDivisionError: division by zero\n  line 2, in f: return x / 0" in feedback(report)


@pytest.mark.parametrize(
    "status", ["timeout", "memory", "output_limit", "early_exit", "syntax_error", "missing_entry_point", "unjudged"]
)
def test_feedback_says_every_kind_of_failure_in_words(status: str) -> None:
    assert "The " in feedback(failing(status=status, test="assert f(1) == 2")).split("\n", 1)[1]
    assert "_" not in feedback(failing(status=status))


def test_feedback_is_bounded() -> None:
    huge = "x" * 1_000_000
    report = failing(status="wrong_answer", test=huge, expected=huge, actual=huge, error=huge, traceback=(huge,) * 50)
    assert len(feedback(report)) <= FEEDBACK_CHARS


def test_feedback_after_all_tests_passed_asks_for_edge_cases() -> None:
    report = ExecutionReport(status="passed", results=(TestResult(status="passed"),))
    assert "pass" in feedback(report)


DRAFT = "<think>\n```python\ndef f(x):\n    return 0\n```\nno</think>\n"


def test_thoughts_never_enter_the_next_prompt() -> None:
    messages = render(PROBLEM, [turn(DRAFT + fenced(CODE))])
    assert "think" not in str(messages[1].content)
    assert CODE in str(messages[1].content)
