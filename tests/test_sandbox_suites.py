"""Suites that share a judge, judges of their own, and the processor that one worker's processes share."""

import ast
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import fork_servers
from test_sandbox_benchmarks import human_eval
from waiting import until

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.runner.contained import contained
from mucode_agent.tools.runner.suite import compile_suite
from mucode_agent.tools.sandbox import run
from mucode_agent.types import Job, Limits

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
ROOT = "def f(x): return x ** 0.5"


def judge(sandbox: LocalSandbox, code: str, *tests: str, **fields: object):
    return sandbox.submit(Job(code=code, tests=tests, **fields)).result(60)


@pytest.mark.parametrize(
    "source",
    [
        "assert f(1) == 2",
        "import math\nassert math.isclose(f(1), 2.0)",
        "from random import randint\nfor _ in range(9):\n    n = randint(1, 9)\n    assert f(n) == n + 1",
        "import copy, string\nxs = [string.digits]\nassert f(copy.deepcopy(xs)) == ''.join(xs).upper()",
        "from typing import *\ndef check(candidate):\n    xs: List[int] = []\n    xs.pop()\n    assert candidate(*xs)",
        "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == e.args[0]",
        "assert [f(x) for x in (1, 2)] == list(map(lambda x: x + 1, (1, 2)))",
    ],
)
def test_plain_tests_may_share_a_judge(source):
    assert compile_suite("", [source], "f").contained


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.modules.clear()\nassert f(1) == 2",
        "sys.modules.clear()\nassert f(1) == 2",
        "import math\nmath.sqrt = f",
        "import math\nmath.__dict__['sqrt'] = f",
        "import copy\ncopy.sys.modules.clear()",
        "import copy as sys\nsys.modules.clear()",
        "from copy import weakref",
        "from typing import *\nget_type_hints(f)",
        "import typing\ntyping.sys.modules.clear()",
        "from math import *",
        "from . import judge",
        "import random\nrandom._os.environ.clear()",
        "import string\nstring.Formatter().get_field('0.__init__.__globals__', (string.Formatter(),), {})",
        "'{0.__class__}'.format(f)",
        "f.__globals__.clear()",
        "(x for x in ()).gi_frame.f_builtins.update(abs=f)",
        "try:\n    f(1)\nexcept Exception as e:\n    e.__traceback__.tb_frame.f_back",
        "__builtins__['abs'] = f",
        "globals().clear()",
        "getattr(f, 'x')",
        "setattr(f, 'x', 1)",
        "eval('1')",
        "exec('x = 1')",
        "__import__('sys')",
        "open('x')",
        "type('X', (), {})",
        "object.__subclasses__()",
        "class C: pass",
        "with f: pass",
        "global x\nx = 1",
        "def g():\n    yield 1",
        "async def g(): pass",
        "del f.x",
        "f.mucode_conversation",
        "import os",
        "import numpy as np",
        "match f:\n    case _: pass",
    ],
)
def test_tests_that_can_reach_further_get_a_judge_of_their_own(source):
    assert not compile_suite("", [source], "f").contained
    assert not compile_suite(source, ["assert f(1) == 2"], "f").contained


def test_no_name_beside_the_allowed_ones_is_let_through():
    for name in ("vars", "dir", "breakpoint", "input", "memoryview", "super", "delattr", "help", "exit", "compile"):
        assert not contained(ast.walk(ast.parse(f"{name}(1)")), frozenset())
    for name in ("__self__", "__call__", "f_locals", "gi_code", "cr_frame", "tb_next", "obj", "format", "modules"):
        assert not contained(ast.walk(ast.parse(f"f.{name}")), frozenset())


def test_the_tests_of_human_eval_share_a_judge():
    rows = human_eval()
    assert all(compile_suite("", [row["test"]], row["entry_point"]).contained for row in rows)


def test_a_suite_that_bends_its_process_bends_no_other(sandbox):
    bend = (
        "import math, builtins, json, random\nmath.sqrt = lambda x: 7.0\nbuiltins.abs = lambda x: 0\n"
        "math.pi = 3\njson.dumps = json.loads = None\n"
        "random.seed = lambda *a: None\nassert f(4.0) == 2.0"
    )
    straight = ("import math\nassert f(4.0) == math.sqrt(4.0)", "assert abs(f(4.0) - 2.5) > 0.1")
    for _ in range(2):
        judge(sandbox, ROOT, bend)
        assert judge(sandbox, ROOT, *straight).passed
        assert not judge(sandbox, "def f(x): return 7.0", *straight).passed


def test_a_value_that_breaks_the_shared_judge_costs_no_other_suite_its_verdict(sandbox):
    hang = "def check(candidate):\n    n = candidate(1)\n    while n: pass"
    for _ in range(2):
        report = judge(sandbox, "def f(x): return 1", hang, entry_point="f", limits=Limits(time_s=0.1))
        assert report.status == "timeout"
        assert judge(sandbox, ROOT, "assert f(4.0) == 2.0").passed


def judges() -> set[int]:
    return {pid for pid in fork_servers(os.getpid()) if Path(f"/proc/{pid}/comm").read_text() == "mucode-judge\n"}


@LINUX
def test_judges_are_as_few_as_they_may_be():
    sandbox = LocalSandbox(workers=1)
    others = judges()
    for n in range(20):
        assert judge(sandbox, ROOT, f"assert f({n * n}) == {n}").passed
    assert len(judges() - others) == 1
    for n in range(12):
        assert judge(sandbox, ROOT, f"import operator\nassert operator.eq(f({n * n}), {n})").passed
    assert len(judges() - others) == 1 + 8
    sandbox.close()


def test_a_forgotten_suite_is_learnt_again(sandbox):
    jobs = [Job(code=ROOT, tests=(f"assert f({n * n}) == {n}",)) for n in range(600)]
    assert all(report.passed for report in run(sandbox, [*jobs, *jobs[:20]]))


def processors(pid: int) -> list[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (shown,) = (line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))
    spans = [[int(end) for end in span.split("-")] for span in shown.split(",")]
    return list(itertools.chain.from_iterable(range(span[0], span[-1] + 1) for span in spans))


def idle_share(processors: set[int], seconds: float = 1.0) -> float:
    """Of the idlest of them."""

    def ticks() -> dict[int, int]:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines() if re.match(r"cpu\d", line)]
        return {int(row[0][3:]): int(row[4]) for row in rows}

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    return max((after[n] - before[n]) / os.sysconf("SC_CLK_TCK") / seconds for n in processors)


@LINUX
@pytest.mark.timing
@pytest.mark.skipif("len(os.sched_getaffinity(0)) < 2", reason="needs two processors")
def test_a_workers_processes_share_one_processor_and_leave_a_crowded_one():
    sandbox = LocalSandbox(workers=1)
    others = fork_servers(os.getpid())
    assert judge(sandbox, ROOT, "assert f(4.0) == 2.0").passed

    def places() -> set[int]:
        mine = fork_servers(os.getpid()) - others
        named = [
            pid for pid in mine if Path(f"/proc/{pid}/comm").read_text() in ("mucode-judge\n", "mucode-candidat\n")
        ]
        return {place for pid in named for place in processors(pid)}

    first = places()
    assert len(first) == 1
    if idle_share(set(os.sched_getaffinity(0)) - first) < 0.6:
        sandbox.close()
        pytest.skip("no other processor idles, so there is nowhere better to move to")
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        for hog in hogs:
            os.sched_setaffinity(hog.pid, first)

        def moved() -> bool:
            run(sandbox, [Job(code=ROOT, tests=("assert f(4.0) == 2.0",))] * 64)
            return places() != first

        until(moved, seconds=100)
        until(lambda: len(places()) == 1)  # they move after the last report
        assert places() != first
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        sandbox.close()
