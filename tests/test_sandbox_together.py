"""The second judge: every test that plain Python runs, where the caller allows it; no program can ask for it."""

import json

import pytest

from mucode_agent.evaluation.check import check_references, check_table
from mucode_agent.runs.config import Benchmark
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import Job, Limits, Problem, StdioTest

PRELOAD = ("pytest",)  # of the fixture `sandbox`


def judged(sandbox: LocalSandbox, code: str, *tests: str, judge: str = "together", **more):
    return sandbox.submit(Job(code=code, tests=tests, entry_point="f", judge=judge, **more)).result(60)


ADD = "def f(x): return x + 1"
UNITTEST = "import unittest\nclass Cases(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), {})\n"
TESTS = {
    "a unittest class": UNITTEST,
    "a unittest class that runs itself": UNITTEST + "if __name__ == '__main__':\n    unittest.main()",
    "a unittest class that is run": UNITTEST + "unittest.main()",
    "functions of pytest": "def test_one():\n    assert f(1) == {}",
    "a class of pytest": "class TestF:\n    def test_one(self):\n        assert f(1) == {}",
    "the kind of MultiPL-E": (
        "def check(candidate):\n    assert candidate(1) == {}\ndef test_check():\n    check(f)\ntest_check()"
    ),
    "check": "def check(candidate):\n    assert candidate(1) == {}",
    "an import of the program": "from solution import f as function\nassert function(1) == {}",
    "code in a text": "exec('y = f(1)')\nassert y == {}",
}


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS.keys())
def test_it_runs_what_is_written_for_a_runner(sandbox, test):
    right, wrong = (judged(sandbox, ADD, test.format(value)) for value in (2, 3))
    assert right.passed, right
    assert wrong.status == "wrong_answer", wrong
    assert right.judge == wrong.judge == "together"


NEEDS = {
    "captured output": (
        "def f(x): print(x)",
        "import io, contextlib as c\nwith c.redirect_stdout(io.StringIO()) as b: f(3)\nassert b.getvalue() == '3\\n'",
    ),
    "patched input": (
        "def f(): return int(input()) + 1",
        "from unittest.mock import patch\nwith patch('builtins.input', return_value='3'):\n    assert f() == 4",
    ),
    "a patched name of the program": (
        "import time\ndef f(): return time.time()",
        "from unittest.mock import patch\nwith patch('solution.time.time', return_value=4):\n    assert f() == 4",
    ),
    "introspection": (
        "class A:\n    'doc'\n    x: int = 1\ndef f(a, *, b=2): return A()",
        "import inspect\nassert str(inspect.signature(f)) == '(a, *, b=2)' and type(f(1)) is A and A.__doc__ == 'doc'",
    ),
    "a program's own objects": (
        "class V:\n    def __init__(s, n): s.n = n\n    def __eq__(s, o): return s.n == o.n\ndef f(n): return V(n)",
        "assert f(1) == f(1) and f(1) != f(2)",
    ),
    "a shared seed": (
        "import random\ndef f(): return random.random()",
        "import random\nrandom.seed(1)\na = f()\nrandom.seed(1)\nassert a == f()",
    ),
    "coroutines": (
        "import asyncio\nasync def f(): await asyncio.sleep(0)",
        "import asyncio\nassert asyncio.run(f()) is None",
    ),
    "identity": ("def f(x): return x", "x = (1, 2.5)\nassert f(x) is x"),
}


@pytest.mark.parametrize(("code", "test"), NEEDS.values(), ids=NEEDS.keys())
def test_what_cannot_be_judged_apart_is_judged_together(sandbox, code, test):
    assert judged(sandbox, code, test).passed
    assert not judged(sandbox, code, test, judge="apart").passed


FAILS = {
    "early_exit": ("import sys\ndef f(x): sys.exit(0)", "assert f(1) == 2"),
    "exception": ("def f(x): return 1 / 0", "assert f(1) == 2"),
    "syntax_error": ("def f(x) return", "assert f(1) == 2"),
    "missing_entry_point": ("def g(x): return 2", "assert f(1) == 2"),
    "timeout": ("def f(x):\n    while True: pass", "assert f(1) == 2"),
    "memory": ("def f(x): return bytearray(10**10)", "assert f(1) == 2"),
    "output_limit": ("def f(x):\n    print('x' * 10**6)\n    return 2", "assert f(1) == 2"),
    "unjudged": (ADD, "def helper():\n    assert f(1) == 2"),
    "wrong_answer": ("def f(x): return 'x'", "assert f(1) + 1 == 2"),
}


@pytest.mark.parametrize("status", FAILS)
def test_its_verdicts_are_named_as_the_other_judges(sandbox, status):
    code, test = FAILS[status]
    report = judged(sandbox, code, test, limits=Limits(time_s=0.3))
    assert (report.status, report.judge) == (status, "together"), report


@pytest.mark.parametrize(
    "test",
    ["assert 1 == 1", "x = 2", "import unittest\nclass A(unittest.TestCase):\n    pass\nassert 1", "f = 3\nx = f == 3"],
)
def test_what_does_not_test_the_program_passes_nothing(sandbox, test):
    assert judged(sandbox, ADD, test).status == "unjudged"


def test_what_needs_fixtures_says_so(sandbox):
    report = judged(
        sandbox, "def f(x): print(x)", "def test_a(capsys):\n    f(1)\n    assert capsys.readouterr().out == '1\\n'"
    )
    assert report.status == "unjudged"
    assert "capsys" in report.results[0].error


def test_tests_share_their_names_and_each_has_its_verdict(sandbox):
    report = judged(sandbox, ADD, "a = f(1)\nassert a == 2", "assert a == 3", "assert f(2) == 3")
    assert [result.status for result in report.results] == ["passed", "wrong_answer", "passed"]
    assert report.results[1].test == "assert a == 3"


def test_a_dead_program_leaves_the_rest_unrun(sandbox):
    report = judged(sandbox, "import os\ndef f(x): os._exit(0)", "assert f(1) == 2", "assert f(1) == 2")
    assert [result.status for result in report.results] == ["early_exit", "skipped"]


@pytest.mark.parametrize(
    "code",
    [
        "judge = 'together'\nJUDGE = judge\ndef f(x): return 5",
        (
            "import os, json, struct\ndef f(x):\n    b = json.dumps({'ok': {'status': 'passed'}}).encode()\n"
            "    os.write(3, struct.pack('>I', len(b)) + b)\n    return 5"
        ),
        "class E:\n    def __eq__(s, o): return True\ndef f(x): return E()",
    ],
)
def test_no_program_gets_the_second_judge_by_itself(sandbox, code):
    report = judged(sandbox, code, "assert f(1) == 2", judge="apart")
    assert report.judge == "apart"
    assert not report.passed


def test_a_program_may_not_invent_a_verdict_word(sandbox):
    forged = (
        "import os, json, struct\ndef f(x):\n    b = json.dumps({'ok': {'status': 'infra'}}).encode()\n"
        "    os.write(3, struct.pack('>I', len(b)) + b)\n    os.read(3, 9)"
    )
    assert judged(sandbox, forged, "assert f(1) == 2").status == "early_exit"


def test_printed_output_has_one_judge(sandbox):
    job = Job(code="print(input())", tests=(StdioTest(stdin="5", stdout="5"),), judge="together")
    report = sandbox.submit(job).result(60)
    assert (report.status, report.judge) == ("passed", "apart")


def test_a_problem_chooses_for_all_its_jobs():
    problem = Problem(
        prompt="x", entry_point="f", public_tests=("assert f(1)",), private_tests=("assert f(2)",), judge="together"
    )
    assert {problem.job("").judge, problem.judge_job("").judge, problem.public().judge} == {"together"}
    assert Problem(prompt="x").job("").judge == "apart"


def test_the_programs_machine_is_as_safe_as_apart(sandbox):
    code = "import os\ndef f(x):\n    try: os.listdir('/etc')\n    except OSError: return 2"
    report = judged(sandbox, code, "assert f(1) == 2")
    assert report.passed
    assert report.isolation == sandbox.isolation


def test_a_check_of_a_benchmark_names_the_problems_that_need_it(sandbox):
    printing, test = NEEDS["captured output"]
    problem = Problem(id="prints", prompt="p", entry_point="f", public_tests=(test,), reference=printing)
    adding = Problem(id="adds", prompt="p", entry_point="f", public_tests=("assert f(1) == 2",), reference=ADD)
    wrong = adding.model_copy(update={"id": "wrong", "reference": "def f(x): return x"})
    chosen = problem.model_copy(update={"id": "chosen", "judge": "together"})
    made = Benchmark(name="own", split="fixed", testless=False, problems=(problem, adding, wrong, chosen))
    found = check_references(made, sandbox)
    assert {failure.problem_id: failure.finding for failure in found.failures} == {
        "prints": "needs judge: together",
        "wrong": "public test fails",
    }
    assert (found.passed, found.judged_together) == (2, 1)
    assert "1 judged together" in check_table(found).note


def test_rows_of_execute_choose_and_the_command_chooses_for_all(tmp_path, monkeypatch, capsys):
    from mucode_agent.cli.app import main

    code, test = NEEDS["captured output"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"code": code, "test": test, **more}) + "\n" for more in ({"judge": "together"}, {}))
    )
    for options, expected in (((), ["passed", "unjudged"]), (("--judge", "together"), ["passed", "passed"])):
        monkeypatch.setattr("sys.argv", ["mucode-agent", "execute", str(rows), "--workers", "1", *options])
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        assert [json.loads(line)["status"] for line in printed.out.splitlines()] == expected
        assert f"{expected.count('passed')} judged together" in printed.err
