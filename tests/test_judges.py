"""Each benchmark's own judge, and tests whose packages are missing."""

import json
from pathlib import Path

import pytest

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.check import sound_examples, without_false_examples
from mucode_agent.problems import docstring_tests
from mucode_agent.runs.directory import Judgement
from mucode_agent.runs.libraries import libraries, preloads
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import CodeTest, Comparison, Job, Judge, Problem, ProblemError, StdioTest


@pytest.mark.parametrize(
    ("compare", "expected", "printed", "equal"),
    [
        ("lines", "1 2", "1 2 \n\n", True),
        ("lines", "1 2", "1\n2", False),
        ("lines", "YES", "Yes", False),
        ("lines", "0.5", "0.50", False),
        ("tokens", "YES", "Yes", True),
        ("tokens", "1 2 3 ", "1\n2\n3", True),
        ("tokens", "0.3333333333", "0.33333", True),
        ("tokens", "0.3333", "0.3343", False),
        ("tokens", "1000000000", "1000000001", True),  # to 1e-5 of it
        ("tokens", "1 2", "1 2 3", False),
        ("tokens", "yes", "1", False),
        ("tokens", "", "", True),
        ("decimals", "0.5", "0.50", True),
        ("decimals", "1 2\n3", " 1 2 \n3\n", True),
        ("decimals", "1 2", "1\n2", False),
        ("decimals", "0.3333333", "0.3333334", False),
        ("decimals", "YES", "Yes", False),
        ("decimals", "a 1", "a 1.0", False),
    ],
)
def test_printed_text_is_compared_as_the_test_says(
    sandbox: LocalSandbox, compare: Comparison, expected: str, printed: str, equal: bool
) -> None:
    test = StdioTest(stdin="", stdout=expected, compare=compare)
    (report,) = run(sandbox, [Job(code=f"print({printed!r}, end='')", tests=(test,))])
    assert report.status == ("passed" if equal else "wrong_answer")


def test_a_right_answer_is_never_too_long(sandbox: LocalSandbox) -> None:
    long = StdioTest(stdin="", stdout=f"{'7' * 99}\n" * 4000)
    value = CodeTest(code=f"assert f() == {[7] * 200_000!r}")
    printing, returning, endless = run(
        sandbox,
        [
            Job(code="for _ in range(4000): print('7' * 99)", tests=(long,)),
            Job(code="def f(): return [7] * 200_000", tests=(value,), entry_point="f"),
            Job(code="while True: print('7' * 99)", tests=(long,)),
        ],
    )
    assert (printing.status, returning.status, endless.status) == ("passed", "passed", "output_limit")


def test_what_a_program_leaves_in_the_first_stream_is_printed(sandbox: LocalSandbox) -> None:
    code = "import atexit, io, sys\nsys.stdout = io.StringIO()\n"
    code += "atexit.register(lambda: sys.__stdout__.write(sys.stdout.getvalue()))\nprint(6)"
    (report,) = run(sandbox, [Job(code=code, tests=(StdioTest(stdin="", stdout="6"),))])
    assert report.passed


def test_a_stream_of_the_programs_own_is_flushed_while_its_names_are_there(sandbox: LocalSandbox) -> None:
    code = "import os, sys\nclass Out:\n    held = ''\n    def write(self, text):\n        self.held += text\n"
    code += "    def flush(self):\n        os.write(1, self.held.encode())\n        self.held = ''\n"
    code += "sys.stdout = Out()\nprint(6)"
    (report,) = run(sandbox, [Job(code=code, tests=(StdioTest(stdin="", stdout="6"),))])
    assert report.passed


CLASS = "import unittest\nclass T(unittest.TestCase):\n    def test_five(self):\n        self.assertEqual(inc(5), 6)\n"
FUNCTION = "def test_five():\n    assert inc(5) == 6\n"


@pytest.mark.parametrize("judge", ["apart", "together"])
@pytest.mark.parametrize(
    "test",
    [
        CLASS,
        f"{CLASS}unittest.main()",
        FUNCTION,
        f"{FUNCTION}if __name__ == '__main__':\n    test_five()",
        "class TestInc:\n    def test_five(self):\n        assert inc(5) == 6",
    ],
)
def test_what_a_test_leaves_to_a_runner_is_run(sandbox: LocalSandbox, judge: Judge, test: str) -> None:
    tests = (CodeTest(code="assert inc(1) == 2"), CodeTest(code=test))
    programs = ["def inc(x): return x + 1", "def inc(x): return 2"]
    right, wrong = run(sandbox, [Job(code=code, tests=tests, entry_point="inc", judge=judge) for code in programs])
    assert right.passed
    assert [result.status for result in wrong.results] == ["passed", "wrong_answer"]


@pytest.mark.parametrize("judge", ["apart", "together"])
@pytest.mark.parametrize(
    "test", ["def helper():\n    assert inc(5) == 6", "if __name__ == '__main__':\n    assert inc(5) == 6"]
)
def test_a_test_that_runs_nothing_judges_nothing(sandbox: LocalSandbox, judge: Judge, test: str) -> None:
    tests = (CodeTest(code="assert inc(1) == 2"), CodeTest(code=test))
    (report,) = run(sandbox, [Job(code="def inc(x): return 2", tests=tests, entry_point="inc", judge=judge)])
    assert [result.status for result in report.results] == ["passed", "unjudged"]


def functional(tmp_path: Path) -> Problem:
    case = [{"input": "[3, 1]\n2", "output": "[1, 3]", "testtype": "functional"}]
    row = {
        "question_id": "1",
        "question_content": "Sort.",
        "starter_code": "class Solution:\n    def order(self, xs: List[int], k: int) -> List[int]:\n        ",
        "metadata": json.dumps({"func_name": "order"}),
        "public_test_cases": json.dumps(case),
        "private_test_cases": json.dumps(case),
    }
    path = tmp_path / "live.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (problem,) = load_benchmark(f"livecodebench:{path}").problems
    return problem


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("def order(xs: List[int], k: int) -> List[int]:\n    return sorted(xs)", "passed"),
        ("class Solution:\n    def order(self, xs: List[int], k: int):\n        return tuple(sorted(xs))", "passed"),
        (
            "def order(xs, k):\n    heapify(xs)\n    return [heappop(xs), Counter(xs).most_common()[0][0]]",
            "passed",
        ),
        (
            "def deep(n):\n    return n and deep(n - 1)\ndef order(xs, k):\n    deep(5000)\n    return sorted(xs)",
            "passed",
        ),
        ("def order(xs, k):\n    return xs", "wrong_answer"),
        ("class Solution:\n    def order(self, xs, k):\n        return xs", "wrong_answer"),
        ("def other(xs, k):\n    return xs", "missing_entry_point"),
    ],
)
def test_livecodebench_takes_functions_and_classes_under_its_own_imports(
    sandbox: LocalSandbox, tmp_path: Path, code: str, status: str
) -> None:
    (report,) = run(sandbox, [functional(tmp_path).judge_job(code)])
    assert report.status == status


def problem(test: str) -> Problem:
    return Problem(prompt="Add one.", entry_point="f", private_tests=(CodeTest(code=test),))


def test_the_packages_of_a_suite_are_preloaded() -> None:
    asked = [problem("import numpy as np\nassert np.isclose(f(1), 2)"), problem("import math\nassert f(1) == 2")]
    assert preloads(asked) == ("numpy",)
    assert preloads(asked, ["yaml"]) == ("yaml", "numpy")
    assert preloads(asked, sandbox="e2b") == ()
    assert libraries(problem("assert np.isclose(f(1), 2)")) == {"numpy"}
    assert libraries(problem("from solution import f\nassert f(1) == 2")) == set(), "the program itself"
    assert libraries(problem("np = 2\nimport os.path\nassert f(1) == np")) == set()


def test_a_suite_whose_package_is_missing_is_refused() -> None:
    with pytest.raises(ProblemError, match="import nowhere_to_be_found, which is not installed here"):
        preloads([problem("from nowhere_to_be_found.a import b\nassert b(f(1))")])


def test_an_example_that_the_reference_fails_is_left_out_with_a_warning(sandbox: LocalSandbox, tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/900",
        "prompt": 'def inc(x):\n    """Add one.\n    >>> inc(1)\n    2\n    >>> inc(2)\n    4\n    """\n',
        "entry_point": "inc",
        "canonical_solution": "    return x + 1\n",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.warns(UserWarning, match=r"HumanEval/900: the reference fails 'assert inc\(2\) == 4'"):
        benchmark = without_false_examples(load_benchmark(f"humaneval:{path}"), sandbox)
    assert benchmark.problems[0].public_tests == (CodeTest(code="assert inc(1) == 2"),)


def test_a_false_example_of_any_problem_is_left_out_and_no_other_test(sandbox: LocalSandbox) -> None:
    prompt = 'def inc(x):\n    """Add one.\n    >>> inc(1)\n    3\n    >>> inc(2)\n    3\n    """\n'
    examples, other = docstring_tests(prompt, "inc"), CodeTest(code="assert inc(3) == 5")
    problem = Problem(
        prompt=prompt, entry_point="inc", public_tests=(*examples, other), reference="def inc(x): return x + 1"
    )
    with pytest.warns(UserWarning, match=r"inc\(1\) == 3"):
        (sound,) = sound_examples([problem], sandbox)
    assert sound.public_tests == (examples[1], other)


def test_an_unjudged_program_is_neither_right_nor_judged() -> None:
    verdict = Judgement(problem_id="1", program="f", status="unjudged", tests_passed=0, tests=1, error="no numpy")
    assert (verdict.correct, verdict.judged) == (False, False)
