"""What a generator reads, and the program in what it answers."""

import textwrap

import pytest
from fakes import fenced

from mucode_agent.prompts import FEEDBACK_CHARS, extract_code, feedback, render, task
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


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (fenced(CODE), CODE),
        (f"```python\n{CODE}", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"~~~python\n{CODE}\n~~~", CODE),
        (f"````python\n{CODE}\n````", CODE),
        (f"```py title=x\n{CODE}\n```", CODE),
        (f"```python\r\n{CODE}\r\n```\r\n", CODE),
        (f"1. First:\n   ```python\n{textwrap.indent(CODE, '   ')}\n   ```", CODE),
        (f"```bash\npip install x\n```\nthen\n```python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}\n```\nUse it:\n```python\nprint(f(1))\n```", CODE),
        (f"```python\nprint(f(1))\n```\nwith\n```python\n{CODE}\n```", CODE),
        (f"```python\ndef g(:\n```\nbetter:\n```python\n{CODE}\n```", CODE),
        (CODE, CODE),
        (f"Sure, here is the code:\n\n{CODE}\n\nIt adds one.", CODE),
        (f"from this we see that\n{CODE}", CODE),
        ("I cannot do that.", ""),
        ("from the list, take the first.", ""),
        ("hello", ""),
        ("", ""),
        ("```", ""),
        ("```python\n```", ""),
        ("```python\n\n", ""),
    ],
)
def test_the_program_is_found_in_any_reply(reply: str, code: str) -> None:
    assert extract_code(reply, "f").replace("\r", "") == code


def test_a_truncated_program_is_kept_as_it_is() -> None:
    assert extract_code("```python\ndef f(x):\n    return (x +", "f") == "def f(x):\n    return (x +"


def test_a_huge_reply_is_read_in_bounded_time() -> None:
    assert extract_code("def f(:\n" * 50_000, "f").startswith("def f(:")


DRAFT = "<think>\n```python\ndef f(x):\n    return 0\n```\nno</think>\n"


def test_a_draft_inside_thoughts_is_no_answer() -> None:
    assert extract_code(DRAFT + fenced(CODE), "f") == CODE
    assert extract_code("<think>\n```python\ndef f(x):\n" + "</think>" + "\n" + fenced(CODE), "f") == CODE
    assert extract_code("<think>" + fenced(CODE), "f") == ""


def test_thoughts_never_enter_the_next_prompt() -> None:
    messages = render(PROBLEM, [turn(DRAFT + fenced(CODE))])
    assert "think" not in str(messages[1].content)
    assert CODE in str(messages[1].content)


def test_sample_input_is_not_taken_for_the_program() -> None:
    reply = "For the input\n```\n5\n```\nwrite\n```python\nprint(int(input()) * 2)\n```"
    assert extract_code(reply) == "print(int(input()) * 2)"


def test_a_fence_inside_a_docstring_does_not_end_the_block():
    program = 'def f(x):\n    """Adds one.\n\n```\nf(1)\n```\n    """\n    return x + 1'
    assert extract_code(f"Sure:\n```python\n{program}\n```\nDone.", "f") == program


def test_a_programs_own_asserts_are_no_part_of_it():
    own = "assert f(1) == 3\n\ndef test_f():\n    assert f(2) == 9\n\ntest_f()"
    needed = "import sys\nsys.setrecursionlimit(5000)"
    code = extract_code(f"```python\ndef f(x):\n    assert x > 0\n    return x + 1\n\n{own}\n\n{needed}\n```", "f")
    assert code.startswith("def f(x):\n    assert x > 0\n    return x + 1")
    assert "assert f(1)" not in code
    assert not code.replace("def test_f()", "").count("test_f()")
    assert code.endswith("import sys\nsys.setrecursionlimit(5000)")


def test_an_assert_that_shares_its_line_with_the_program_stays():
    assert extract_code("```python\ndef f(x): return x\nassert f(1); y = 2\n```", "f").endswith("assert f(1); y = 2")


def test_the_asserts_of_a_program_on_standard_input_stay():
    assert "assert n > 0" in extract_code("```python\nn = int(input())\nassert n > 0\nprint(n)\n```")


HELPER, USER = "def half(x):\n    return x // 2", "def f(x):\n    return half(x) + 1"


def test_a_helper_in_an_earlier_block_stands_before_the_function_that_uses_it():
    reply = f"First a helper:\n{fenced(HELPER)}\nThen the function:\n{fenced(USER)}"
    assert extract_code(reply, "f") == f"{HELPER}\n\n{USER}"


def test_a_helper_of_a_helper_and_its_import_are_taken_too():
    helper = "def half(x):\n    return floor(x / 2)"
    blocks = ["from math import floor", "unused = 1", helper, USER]
    reply = "\n".join(map(fenced, blocks))
    assert extract_code(reply, "f") == "\n\n".join([blocks[0], helper, USER])


@pytest.mark.parametrize(
    "other",
    [
        "def f_slow(x):\n    return x",  # nothing that is used
        "def half(x)\n    return x",  # does not parse
        "x = 3\nprint(x)",  # a parameter's name, not the function's need
    ],
)
def test_an_earlier_block_that_is_not_needed_is_left_out(other: str):
    assert extract_code(f"{fenced(other)}\n{fenced(USER)}", "f") == USER


def test_names_that_a_function_sets_inside_are_no_need_of_it():
    inside = "def f(x):\n    import math\n    def half(y): return y\n    return half(math.floor(x))"
    assert extract_code(f"{fenced(HELPER)}\n{fenced('import math')}\n{fenced(inside)}", "f") == inside


def test_what_the_function_defines_itself_is_not_taken_from_a_draft():
    draft, whole = "def half(x):\n    return x", f"{HELPER}\n\n{USER}"
    assert extract_code(f"{fenced(draft)}\n{fenced(whole)}", "f") == whole
