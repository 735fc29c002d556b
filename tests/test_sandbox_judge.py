"""The judge stays whole: a test may raise or end what it likes, and a value costs the judge no more than its bound."""

import os
from pathlib import Path

import pytest
from processes import fork_servers

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import Job, Limits

DEFAULT = Limits()
RIGHT = Job(code="def f(x): return x + 1", tests=("assert f(1) == 2",))


PRELOAD = ("pytest",)  # of the fixture `sandbox`


def judged(sandbox: LocalSandbox, code: str, *tests: str, limits: Limits = DEFAULT, **more: str):
    return sandbox.submit(Job(code=code, tests=tests, entry_point="f", limits=limits, **more)).result(120)


@pytest.mark.parametrize(
    "raised",
    ["asyncio.CancelledError", "KeyboardInterrupt", "SystemExit(0)", "GeneratorExit", "BaseException('x')"],
)
def test_what_fails_no_test_is_unjudged(sandbox, raised):
    report = judged(sandbox, "def f(x): return 5", f"import asyncio\nif f(1) != 4: raise {raised}")
    assert report.status == "unjudged", report


@pytest.mark.parametrize("end", ["os._exit(0)", "os._exit(1)", "os.abort()", "__import__('ctypes').string_at(1)"])
def test_a_test_that_ends_its_process_is_unjudged_at_once(sandbox, end):
    report = judged(sandbox, "def f(x): return 5", f"import os\nif f(1) != 4: {end}", "assert f(1) == 5")
    assert [result.status for result in report.results] == ["unjudged", "skipped"], report
    assert sandbox.submit(RIGHT).result(60).passed


def test_pytests_functions_judge(sandbox):
    test = "import pytest\nwith pytest.raises(ValueError):\n    f(1)"
    assert judged(sandbox, "def f(x): raise ValueError", test).passed
    assert judged(sandbox, "def f(x): return 1", test).status == "wrong_answer"
    fail = "import pytest\nif f(1) != 4: pytest.fail('not four')"
    assert judged(sandbox, "def f(x): return 5", fail).results[0].error == "not four"
    assert judged(sandbox, "def f(x): return 5", "import pytest\nif f(1) != 4: pytest.skip('no')").status == "unjudged"


def test_a_set_up_that_ends_the_process_is_unjudged(sandbox):
    assert judged(sandbox, "def f(x): return 2", "assert f(1) == 2", setup="raise SystemExit").status != "infra"


HEAVY = {
    "empty deques": "from collections import deque\ndef f(x): return [deque() for _ in range(28000)]",
    "empty counters": "from collections import Counter\ndef f(x): return [Counter() for _ in range(9000)]",
    "empty sets": "def f(x): return [set() for _ in range(28000)]",
    "small arrays": "from collections import OrderedDict\ndef f(x): return [OrderedDict(a=1) for _ in range(6000)]",
}


@pytest.mark.parametrize("code", HEAVY.values(), ids=HEAVY.keys())
def test_many_small_values_do_not_load_the_judge(sandbox, code):
    keep = "def check(candidate):\n    kept = [candidate(i) for i in range(200)]\n    assert kept[0] == 4"
    report = judged(sandbox, code, keep, limits=Limits(time_s=20))
    # Beyond the bound of shared values they cross as copies, so that a later failure cannot be judged.
    assert report.status in ("output_limit", "wrong_answer", "unjudged"), report
    peaks = [
        int(line.split()[1])
        for pid in fork_servers(os.getpid())
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    assert max(peaks) < 200_000  # kB: the judge that grew has been replaced


WIRE = """
import json, os, struct, sys
P = sys.hash_info.modulus
def set_of(n):
    items = [{item} for i in range(1, n)]
    body = json.dumps({{'ok': ['S', items]}}, separators=(',', ':')).encode()
    data = struct.pack('>I', len(body)) + body
    while data:
        data = data[os.write(3, data[:32768]):]
    os.read(3, 65536)
    os._exit(0)
def f(x): set_of({n})
"""


@pytest.mark.parametrize(
    ("item", "n"),
    [("['Q', [hex(5 + i * P), '0x1']]", 4000), ("['I', hex(5 + i * P)]", 7000), ("['D', '1e' + str(i * 60)]", 7000)],
    ids=["fractions", "integers", "decimals"],
)
def test_values_that_collide_cost_the_judge_no_more_than_their_limit(sandbox, item, n):
    report = judged(sandbox, WIRE.format(item=item, n=n), "assert f(1) == 4", limits=Limits(time_s=0.5))
    assert not report.passed
    assert report.status != "infra"
    assert report.wall_s < 30


def test_a_malformed_value_is_no_exception_that_a_test_may_expect(sandbox):
    forms = "['c', []]", "['T', ['date']]", "['r', [1, 2, 0]]", "['N', ['x', ['a'], []]]", "['n', []]", "['H', []]"
    forms += "['p', ['d', 'AA==']]", "['p', ['z', '']]", "['p', [[], '']]", "['p', ['i', 5]]", "['C', 3]", "['i', 'x']"
    for form in forms:
        code = (
            "import os, json, struct, time\ndef f(x):\n"
            f"    b = json.dumps({{'ok': {form}}}).encode()\n"
            "    os.write(3, struct.pack('>I', len(b)) + b)\n    time.sleep(9)"
        )
        test = "try:\n    f(1)\nexcept Exception:\n    pass\nelse:\n    assert False"
        assert judged(sandbox, code, test).status == "early_exit", form


MALFORMED = {
    "no message": "b'5'",
    "no object": "b'[\"sync\"]'",
    "an unknown number": 'b\'{"ok":["&",99]}\'',
    "a number of the test's": 'b\'{"ok":1,"sync":{"new":[[2,["l",[]]]],"free":[]}}\'',
    "another type": 'b\'{"ok":1,"sync":{"new":[[0,["d",[]]]],"free":[]}}\'',
    "a half section": 'b\'{"ok":1,"sync":{}}\'',
    "no hash": 'b\'{"ok":["&",1],"sync":{"new":[[1,["S",[["&",1]]]]],"free":[]}}\'',
    "memory that is missing": "b'\\0' + struct.pack('>2I', 2, 2**31) + b'{}'",
    "memory of another number": 'b\'\\0\' + struct.pack(\'>3I\', 28, 1, 4) + b\'{"ok":["p",["i",{"$":9}]]}1234\'',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_the_programs_end(sandbox, body):
    code = (
        f"import os, struct\ndef f(x):\n    body = {body}\n"
        "    os.write(3, struct.pack('>I', len(body)) + body)\n    os.read(3, 99999)\n    os._exit(0)"
    )
    test = "xs = [1]\ntry:\n    f(xs)\nexcept Exception:\n    pass\nelse:\n    assert False"
    assert judged(sandbox, code, test).status == "early_exit"


IDENTITY = [
    "xs = [1, 2]\nr = f(xs)\nassert r == xs and r is not xs",
    "xs = [1, 2]\nassert not (f(xs) is xs)",
    "xs = [1, 2]\nassert id(f(xs)) != id(xs)",
    "import unittest\nxs = [1, 2]\nunittest.TestCase().assertIsNot(f(xs), xs)",
    "import operator\nxs = [1, 2]\nassert operator.is_not(f(xs), xs)",
    "xs = [1, 2]\nsame = f(xs) is xs\nassert not same",
    "xs = [1, 2]\nassert all([f(xs) is not xs])",
    "xs = [1, 2]\nif f(xs) is xs: raise AssertionError",
]


@pytest.mark.parametrize("test", IDENTITY)
def test_whether_two_lists_are_one_object_is_judged_wherever_it_is_asked(sandbox, test):
    assert judged(sandbox, "def f(xs): return xs", test).status == "wrong_answer"
    assert judged(sandbox, "def f(xs): return list(xs)", test).passed


def test_identity_with_a_constant_is_judged(sandbox):
    assert judged(sandbox, "def f(x): return None", "r = f(1)\nassert r is None and r is not True").passed


def test_a_stop_iteration_ends_no_loop_unless_the_tests_code_names_it(sandbox):
    swallowed = (
        "def check(candidate):\n    # StopIteration\n    'StopIteration'\n    assert all(map(candidate, [1, 2]))"
    )
    assert judged(sandbox, "def f(x): raise StopIteration", swallowed).status == "exception"
    expected = "try:\n    f(1)\nexcept StopIteration:\n    pass\nelse:\n    assert False"
    assert judged(sandbox, "def f(x): raise StopIteration", expected).passed


ABILITIES = [
    "assert callable(f(1))",
    "assert hasattr(f(1), '__len__')",
    "import collections.abc\nassert isinstance(f(1), collections.abc.Sized)",
    "import typing\nassert isinstance(f(1), (int, typing.Iterable))",
    "import unittest, collections.abc\nunittest.TestCase().assertIsInstance(f(1), collections.abc.Iterable)",
]


@pytest.mark.parametrize("test", ABILITIES)
def test_an_object_can_do_no_more_than_it_can(sandbox, test):
    assert not judged(sandbox, "def f(x): return object()", test).passed


def test_what_an_object_says_of_itself_is_judged(sandbox):
    code = "class A:\n    n = 1\n    def __call__(s): return 2\ndef f(x): return A() if x else (lambda: 3)"
    test = "assert callable(f(1)) and callable(f(0)) and callable(len) and f(0)() == 3"
    assert judged(sandbox, code, test, "assert hasattr(f(1), 'n') and not hasattr(f(1), 'm')").passed
    assert judged(sandbox, "def f(x): return [x]", "assert isinstance(f(1), list) and hasattr(f(1), '__len__')").passed


def test_halves_of_a_character_are_not_joined(sandbox):
    halves = "def f(x): return chr(0xd83d) + chr(0xde00)"
    assert judged(sandbox, halves, "assert f(1) == '\U0001f600'").status == "wrong_answer"
    assert judged(sandbox, halves, "assert f(1) == chr(0xd83d) + chr(0xde00)").passed
    assert judged(
        sandbox, "def f(x): return x + '\U0001f600é'", "assert f('ü\U0001f600') == 'ü\U0001f600\U0001f600é'"
    ).passed


def test_a_field_does_not_hide_a_constant_of_the_set_up(sandbox):
    setup = "class P:\n    LIMIT = 3\n    size = 0\n    def fits(self): return self.size <= self.LIMIT"
    hides = "def f(x):\n    p = P()\n    p.size, p.LIMIT = 9, 10\n    return p"
    assert judged(sandbox, hides, "assert f(1).fits()", setup=setup).status == "unjudged"
    assert judged(
        sandbox, "def f(x):\n    p = P()\n    p.size = 2\n    return p", "assert f(1).fits()", setup=setup
    ).passed
