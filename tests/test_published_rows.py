"""Rows in the forms that benchmarks publish, each answered by its own reference; the tasks are our own."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from command_line import mucode
from fakes import fenced

from mucode_agent.cli.output import BAD_INPUT, SOLVED
from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.results import Results
from mucode_agent.runs.reading import read_shards
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import ProblemError

PRELOAD = ("numpy",)

EVALPLUS = """\
import numpy as np

def is_floats(x) -> bool:
    # check if it is float; List[float]; Tuple[float]
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False


def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"


"""
"""What EvalPlus puts before each of its suites."""
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):"

HALVES = {
    "task_id": "HumanEval/900",
    "prompt": 'def halves(xs):\n    """Halves of all.\n    >>> halves([1, 2])\n    [0.5, 1.0]\n    """\n',
    "canonical_solution": "    return [x / 2 + 1e-9 * (x == 7) for x in xs]\n",
    "entry_point": "halves",
    "test": f"\n\n{EVALPLUS}def check(candidate):\n    inputs = [[[7, 4]], [[]]]\n    results = [[3.5, 2.0], []]\n"
    f"    {LOOP}\n        assertion(candidate(*inp), exp, 0)\n",
}
ROOT = {
    "task_id": "HumanEval/901",
    "prompt": "import math\n\n\ndef value(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n\n"
    'def root(xs):\n    """Where value(xs, x) is 0.\n    >>> round(root([1, 2]), 2) # 1 + 2x\n    -0.5\n    """\n',
    "canonical_solution": "    return -xs[0] / xs[1]\n",
    "entry_point": "root",
    "test": f"\n\n{EVALPLUS}import math\n\n\ndef _poly(xs, x):\n"
    "    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n"
    "def check(candidate):\n    inputs = [[[1, 2]], [[-6, 3]]]\n    for i, inp in enumerate(inputs):\n"
    "        assert abs(_poly(*inp, candidate(*inp))) <= 0.0001\n",
}
DISK = {
    "task_id": 900,
    "code": "import math\ndef area(r):\n  return math.pi * r * r",
    "prompt": "Write a function to find the area of a disk.",
    "source_file": "Benchmark Questions Verification V2.ipynb",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(area(1), 3.141592653589793, rel_tol=0.001)"],
    "test": f"{EVALPLUS}inputs = [[1], [0]]\nresults = [3.141592653589793, 0.0]\n{LOOP}\n"
    "    assertion(area(*inp), exp, 0)\n",
}
TOP = {
    **DISK,
    "task_id": 901,
    "code": "def top(xs):\n  return max(xs, default=float('-inf'))",
    "prompt": "Write a function to find the greatest item, or minus infinity.",
    "test_imports": [],
    "test_list": ["assert top([1, 2]) == 2"],
    "test": f"from math import inf\n{EVALPLUS}inputs = [[[1, 2]], [[]]]\nresults = [2, -inf]\n{LOOP}\n"
    "    assertion(top(*inp), exp, 0)\n",
}
FILES = {
    "name": "900_A. Double",
    "description": "Print the double.",
    "public_tests": {"input": ["3\n"], "output": ["6\n"]},
    "private_tests": {"input": ["4\n"], "output": ["8\n"]},
    "generated_tests": {"input": [], "output": []},
    "solutions": {
        "language": [1, 3],
        "solution": [
            "print 2 * input()",
            "n = int(open('input.txt').read())\nwith open('output.txt', 'w') as file:\n    print(2 * n, file=file)",
        ],
    },
    "time_limit": {"seconds": 1, "nanos": 0},
    "memory_limit_bytes": 256000000,
    "input_file": "input.txt",
    "output_file": "output.txt",
}


def apps(number: int, held: dict[str, Any] | None, *solutions: str, starter: str = "") -> dict[str, Any]:
    return {
        "problem_id": number,
        "question": "Double it.",
        "solutions": json.dumps(solutions),
        "input_output": json.dumps(held) if held else "",
        "difficulty": "interview",
        "url": "https://example.org",
        "starter_code": starter,
    }


LINES = "import sys\nfor word in sys.stdin.read().split():\n    print(2 * int(word))"
METHOD = "class Solution:\n    def both(self, xs: List[int], y):\n        "
TASKS = [
    apps(1, {"inputs": ["3\n", "5\n"], "outputs": ["6\n", "10\n"]}, "print 2 * input()", "print(2 * int(input()))"),
    apps(2, {"inputs": [["1 2", "3"]], "outputs": [["2", "4", "6"]]}, LINES),
    apps(
        3,
        {"fn_name": "double", "inputs": [[1], [[2]]], "outputs": [[2], [2, 2]]},
        "def double(x):\n    return 2 * x",
        starter="def double(x):\n\t",
    ),
    apps(
        4,
        {"fn_name": "both", "inputs": [[[1], 2]], "outputs": [[2, 4]]},
        f"{METHOD}return 2 * xs[0], 2 * y",
        starter=METHOD,
    ),
]
SUITE = {
    "task_id": "BigCodeBench/900",
    "complete_prompt": "import itertools\nfrom random import shuffle\n\ndef task_func(numbers=list(range(1, 3))):\n"
    '    """\n    The sum of all, in any order.\n\n    Example:\n    >>> task_func([1, 2])\n    3\n    """\n',
    "instruct_prompt": "The sum of all, in any order.",
    "canonical_solution": "    shuffle(numbers)\n    return sum(numbers)",
    "code_prompt": "import itertools\nfrom random import shuffle\ndef task_func(numbers=list(range(1, 3))):\n",
    "test": "import unittest\nfrom unittest.mock import patch\nclass TestCases(unittest.TestCase):\n"
    "    def setUp(self):\n        self.numbers = [1, 2, 3]\n"
    "    def test_sum(self):\n        self.assertEqual(task_func(self.numbers), 6)\n"
    "    @patch(f'{__name__}.shuffle')\n    def test_shuffles(self, shuffle):\n        task_func([1])\n"
    "        shuffle.assert_called_once()\n",
    "entry_point": "task_func",
    "doc_struct": "{}",
    "libs": "['random', 'itertools']",
}
ROWS = {
    "humaneval+": [HALVES, ROOT],
    "mbpp+": [DISK, TOP],
    "codecontests": [FILES],
    "apps": TASKS,
    "bigcodebench": [SUITE],
}


def written(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ROWS)
def test_a_reference_passes_its_own_row(sandbox: LocalSandbox, tmp_path: Path, name: str) -> None:
    problems = load_benchmark(f"{name}:{written(tmp_path, *ROWS[name])}").problems
    reports = run(sandbox, [problem.judge_job(problem.reference or "") for problem in problems])
    assert [report.status for report in reports] == ["passed"] * len(ROWS[name]), reports
    assert all(problem.public_tests for problem in problems)


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_program_fails_every_row(sandbox: LocalSandbox, tmp_path: Path, name: str) -> None:
    problems = load_benchmark(f"{name}:{written(tmp_path, *ROWS[name])}").problems
    wrong = [
        f"def {problem.entry_point}(*_):\n    return 0.25" if problem.entry_point else "print(1)"
        for problem in problems
    ]
    reports = run(sandbox, [problem.judge_job(code) for problem, code in zip(problems, wrong, strict=True)])
    assert {report.status for report in reports} <= {"wrong_answer", "exception"}, reports


def test_a_row_of_apps_without_tests_is_left_out(tmp_path: Path) -> None:
    rows = written(tmp_path, apps(1, None, "print(1)"), TASKS[0])
    assert [problem.id for problem in load_benchmark(f"apps:{rows}").problems] == ["1"]


def test_rows_of_mbpp_plus_are_not_measured_as_mbpp(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"give mbpp\+:FILE"):
        load_benchmark(f"mbpp:{written(tmp_path, DISK)}")


# --- suites that import a library, by every command that judges ----------------------------------------------------


def commands(tmp_path: Path, row: dict[str, Any], server: ChatServer) -> dict[str, list[Any]]:
    """The command lines that judge by `row`, each with its directory under `tmp_path`."""
    rows, one = written(tmp_path, row), tmp_path / "one.json"
    one.write_text(json.dumps(row))
    model = ["--model", f"openai:any@{server.url}", "--turns", 1]
    return {
        "evaluate": ["evaluate", "run", f"mbpp+:{rows}", *model, "--n", 1, "--no-greedy", "--no-independent"],
        "rollout": ["rollout", f"mbpp+:{rows}", *model, "--per-problem", 1],
        "solve": ["solve", one, *model, "--n", 1],
    }


@pytest.mark.parametrize("command", ["evaluate", "rollout", "solve"])
def test_a_reference_under_a_numpy_suite_is_right_by_every_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    with ChatServer(lambda prompt, seed: fenced(DISK["code"])) as server:
        options = ["--output", out] if command != "solve" else []
        assert mucode(monkeypatch, *commands(tmp_path, DISK, server)[command], *options) == SOLVED
    if command == "evaluate":
        results = Results.model_validate_json((out / "results.json").read_bytes())
        assert (results.arms[0].accuracy[-1].value, results.unjudged) == (1.0, ())
    if command == "rollout":
        [(_, shard)] = read_shards(out)
        assert shard is not None
        assert [row.correct for row in shard.judgements] == [True]


@pytest.mark.parametrize("command", ["evaluate", "rollout", "solve"])
def test_a_suite_whose_library_is_missing_stops_every_command_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    row = {**DISK, "test": f"import nowhere_to_be_found as nope\n{DISK['test']}"}
    with ChatServer(lambda prompt, seed: fenced(DISK["code"])) as server:
        options = ["--output", tmp_path / "out"] if command != "solve" else []
        assert mucode(monkeypatch, *commands(tmp_path, row, server)[command], *options) == BAD_INPUT
    assert server.requests == []
    assert "install nowhere_to_be_found beside mucode_agent" in capsys.readouterr().err
