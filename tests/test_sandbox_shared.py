# ruff: noqa: E501 - programs and tests on one line each
"""What test and program would share in one process: changed values, threads, functions, and what the sandbox refuses.

A right program passes or is unjudged, a wrong one fails: that a value was copied excuses no wrong answer.
"""

import pytest

from mucode_agent.types import Job, Limits, StdioTest


def status(sandbox, code, *tests, **more):
    return sandbox.submit(Job(code=code, tests=tests, limits=Limits(time_s=1.0), **more)).result(60).status


WRONG = {
    "a variable": ("def f(xs): return 7", "xs = [3, 1]\nassert f(xs) == [1, 3]"),
    "computed from it": ("def f(xs): return 7", "xs = [3, 1]\nassert f(xs) == sorted(xs)"),
    "a table of cases": ("def f(xs): return 7", "for xs, want in [([1, 2], 3), ([2], 2)]:\n    assert f(xs) == want"),
    "changed and wrong": ("def f(xs):\n    xs.clear()\n    return 7", "xs = [3, 1]\nassert f(xs) == sorted(xs)"),
    "in place": ("def f(xs): xs.reverse()", "xs = [3, 1, 2]\nf(xs)\nassert xs == [1, 2, 3]"),
    "in place, nested": ("def f(m): m[0][0] = 9", "m = [[1, 2], [3]]\nf(m)\nassert m == [[0, 2], [3]]"),
    "must not change": ("def f(xs):\n    xs.sort()\n    return xs", "xs = [3, 1]\nassert f(xs) == [1, 3]\nassert xs == [3, 1]"),
    "must not change, computed": ("def f(xs):\n    xs.sort()\n    return xs", "xs = [3, 1]\nwas = list(xs)\nassert f(xs) == sorted(was)\nassert xs == was"),
    "an ellipsis": ("def f(): return NotImplemented", "assert f() is ..."),
    "no operation": ("class V:\n    def __lt__(s, o): return False", "assert V().__lt__(3) is NotImplemented"),
    "a deep copy": ("class C:\n    xs = [1]\n    def __deepcopy__(s, m): return C()", "import copy\na = C()\nb = copy.deepcopy(a)\nb.xs.append(2)\nassert a.xs == [1]"),
    "held by the program": ("class f:\n    def __init__(s, xs): s.xs = xs\n    def n(s): return 5", "xs = [1]\nassert f(xs).n() == 1"),
    "a list with a NaN": ("def f(): return [float('nan'), 1]", "assert f() == [2, 1]"),
    "a key": ("def f(xs, key): return xs", "assert f([3, 1], key=lambda x: x) == [1, 3]"),
    "a comment that names processes": ("#os.fork\ndef f(x): return x", "assert f(1) == 2"),
    "a docstring that names processes": ("def f(x):\n    \"\"\"As subprocess.run() does,\n    twice.\"\"\"\n    return x", "assert f(1) == 2"),
    "a string that names processes": ("X = 'os.popen'\ndef f(x): return x", "assert f(1) == 2"),
    "a comment that names introspection": ("# inspect\ndef f(g): return 1", "assert f(lambda x: x) == 2"),
    "named like a socket": ("def f(socket): return socket", "assert f(1) == 2"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_program_is_wrong_whatever_it_was_given(sandbox, code, test):
    assert status(sandbox, code, test) == "wrong_answer"


RIGHT = {
    "keyword": ("def f(xs): xs.sort()", "xs = [2, 1]\nf(xs=xs)\nassert xs == [1, 2]"),
    "by map": ("def f(xs): xs.sort()", "xs = [2, 1]\nlist(map(f, [xs]))\nassert xs == [1, 2]"),
    "changed and returned": ("def f(xs):\n    xs.sort()\n    return xs", "xs = [3, 1]\nassert f(xs) == sorted(xs)"),
    "the first k": ("def f(a):\n    a[0] = 9\n    return 1", "a = [1, 2]\nk = f(a)\nassert a[:k] == [9]"),
    "within a new list": ("def f(m): m[0].sort()", "a = [2, 1]\nf([a])\nassert a == [1, 2]"),
    "a row that the test holds": ("def f(m): m[0].append(9)", "m = [[1], [2]]\nr = m[0]\nf(m)\nassert r == [1, 9]"),
    "copied by the program": ("class f:\n    def __init__(s, xs): s.xs = list(xs)\n    def n(s): return len(s.xs)", "xs = [1]\ng = f(xs)\nxs.append(2)\nassert g.n() == 1"),
    "a result sorted": ("def f(): return [2, 1]", "r = f()\nr.sort()\nassert r == [1, 2]"),
    "an ellipsis": ("def f(): return [..., NotImplemented]", "assert f() == [..., NotImplemented]\nassert f()[0] is ... and f()[1] is NotImplemented"),
    "no operation": ("class V:\n    def __lt__(s, o): return NotImplemented", "assert V().__lt__(3) is NotImplemented"),
    "a deep copy": ("class C:\n    def __init__(s): s.xs = [1]", "import copy\na = C()\nb, (c,) = copy.deepcopy(a), copy.deepcopy([a])\nb.xs.append(2)\nassert (a.xs, b.xs, c.xs) == ([1], [1, 2], [1])"),
    "a function given back": ("def f(g): return g", "def g(): return 3\nassert f(g) is g and f(g)() == 3"),
    "an endless iterator": ("import itertools\ndef f(xs): return list(itertools.islice(xs, 3))", "import itertools\nassert f(itertools.count()) == [0, 1, 2]"),
    "threads of the test": ("import time\ndef f(x):\n    time.sleep(x % 3 / 1000)\n    return x", "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as pool:\n    assert list(pool.map(f, range(60))) == list(range(60))"),
    "threads of the program": ("from concurrent.futures import ThreadPoolExecutor\ndef f(g, xs):\n    with ThreadPoolExecutor(8) as pool: return list(pool.map(g, xs))", "assert f(lambda x: 2 * x, range(60)) == [2 * x for x in range(60)]"),
    "a thread that calls back late": ("import threading, time\ndef f(g):\n    t = threading.Thread(target=lambda: (time.sleep(0.02), g(1)))\n    t.start()\n    return t.join\n", "seen = []\nf(seen.append)()\nassert seen == [1]"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), RIGHT.values(), ids=RIGHT.keys())
def test_a_right_program_is_right(sandbox, code, test):
    assert status(sandbox, code, test) == "passed"


UNJUDGED = {
    "emptied, and computed from": ("def f(xs):\n    xs.clear()\n    return []", "xs = [3, 1]\nassert f(xs) == sorted(xs)"),
    "emptied, nested": ("def f(m):\n    m[0].clear()\n    return 0", "xs = [3, 1]\nassert f([xs]) == sum(xs)"),
    "emptied, and expected by another name": ("def f(xs):\n    xs.clear()\n    return []", "want = [3, 1]\nxs = want\nr = f(xs)\nassert r == want"),
    "emptied, a part of it": ("def f(xs):\n    xs.clear()\n    return []", "data = [[3, 1], 2]\nrow = data[0]\nr = f(row)\nassert r == data[0]"),
    "emptied, an item of it": ("def f(xs):\n    xs.clear()\n    return []", "data = [[3, 1], [2]]\nfor row in data:\n    r = f(row)\nassert r == data[1]"),
    "emptied, by keyword": ("def f(*, xs):\n    xs.clear()\n    return 0", "xs = [3, 1]\nassert f(xs=xs) == len(xs)"),
    "emptied, before an if": ("def f(xs):\n    xs.clear()\n    return 0", "xs = [3, 1]\nassert 1 == 1\nif f(xs) != len(xs): raise AssertionError"),
    "emptied, of unittest": ("def f(xs):\n    xs.clear()\n    return []", "import unittest\nxs = [3, 1]\nunittest.TestCase().assertEqual(f(xs), sorted(xs))"),
    "emptied later": ("class f:\n    def __init__(s, xs): s.xs = xs\n    def get(s):\n        s.xs.clear()\n        return []", "xs = [3, 1]\ng = f(xs)\nassert g.get() == sorted(xs)"),
    "equal but for NaN": ("def f(): return [float('nan')]", "import math\nassert f() == [math.nan]"),
    "one thread waits for another": ("import threading\ne = threading.Event()\ndef wait(): return e.wait(20)\ndef fire(): e.set()", "import threading, time\nr = []\nt = threading.Thread(target=lambda: r.append(wait()))\nt.start()\ntime.sleep(0.1)\nfire()\nt.join()\nassert r == [True]"),
    "a process": ("import subprocess\ndef f(): return subprocess.run(['echo', 'a'], capture_output=True, text=True).stdout", "assert f() == 'a\\n'"),
    "a pool of processes": ("from concurrent.futures import ProcessPoolExecutor\ndef f():\n    with ProcessPoolExecutor(2) as p: return sum(p.map(abs, [-1, 2]))", "assert f() == 3"),
    "a shell": ("import os\ndef f(): return os.system('true')", "assert f() == 0"),
    "a pickle": ("class C: x = 1", "import pickle\nassert pickle.loads(pickle.dumps(C())).x == 1"),
    "a class derived by the test": ("class C:\n    def f(s): return s.g()", "class D(C):\n    def g(s): return 1\nassert D().f() == 1"),
    "an object that says it is a number": ("class L: __class__ = int\ndef f(): return L()", "assert type(f()) is int"),
    "that says it is an instance": ("class L: __class__ = list\ndef f(): return L()", "assert isinstance(f(), (list, tuple))"),
    "that says of which class it is": ("class L: __class__ = str\ndef f(): return L()", "assert f().__class__ == str"),
    "a server": ("import socket\ndef f():\n    s = socket.socket()\n    s.bind(('127.0.0.1', 0))\n    return 1", "assert f() == 1"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), UNJUDGED.values(), ids=UNJUDGED.keys())
def test_where_one_process_could_end_otherwise_it_is_unjudged(sandbox, code, test):
    assert status(sandbox, code, test) == "unjudged"


def test_a_script_that_needs_a_process_is_unjudged_and_a_wrong_one_wrong(sandbox):
    code = "import subprocess\nprint(subprocess.run(['echo', 'a'], capture_output=True, text=True).stdout)"
    assert status(sandbox, code, StdioTest(stdin="", stdout="a")) == "unjudged"
    assert status(sandbox, "raise PermissionError('x')", StdioTest(stdin="", stdout="a")) == "exception"


def test_an_endless_iterator_that_the_program_drains_is_its_time_out(sandbox):
    test = "import itertools\nassert f(itertools.count()) == 3"
    assert status(sandbox, "def f(xs): return sum(xs)", test) == "timeout"
    assert status(sandbox, "def f(x): return x", "assert f(1) == 1") == "passed"


def test_a_test_that_is_seen_twice_leaves_the_others_and_the_output_alone(sandbox):
    code = "print('loaded')\ndef f(xs):\n    xs.clear()\n    return []"
    tests = ("assert f([]) == []", "xs = [1]\nassert f(xs) == sorted(xs)", "assert f([2]) == [2]")
    report = sandbox.submit(Job(code=code, tests=tests)).result(60)
    assert [result.status for result in report.results] == ["passed", "unjudged", "wrong_answer"]
    assert report.stdout == "loaded\n"


NUMBERS = (
    "[n % 3 for n in range(600)]",
    "[-(2**63), 2**63 - 1] * 400",
    "[2**63] * 600",
    "[True, 1, 0] * 300",
    "[0.0, -0.0, 1e308, 5e-324, float('inf')] * 200",
    "[1, 1.0] * 300",
    "[list(range(600)), [0.5] * 600]",
    "[1 / (n + 1) for n in range(511)]",
)


@pytest.mark.parametrize("numbers", NUMBERS)
def test_long_lists_of_numbers_arrive_as_they_are(sandbox, numbers):
    same = "assert repr(f(x)) == repr(x) and f(x) == x"
    assert status(sandbox, "def f(x): return x", f"x = {numbers}\n{same}") == "passed"
    assert status(sandbox, f"def f(x): return ({numbers})[1:]", f"x = {numbers}\n{same}") == "wrong_answer"
    changes = "x = {numbers}\nf(x)\nassert x[-1] is None and x[:-1] == ({numbers})[:-1]".replace("{numbers}", numbers)
    assert status(sandbox, "def f(x): x[-1] = None", changes) == "passed"


@pytest.mark.parametrize("name", ["SkipTest", "_ShouldStop"])
def test_what_a_test_framework_stops_by_is_no_way_out_of_its_tests(sandbox, name):
    code = f"class E(Exception): pass\nE.__name__ = {name!r}\nE.__module__ = 'unittest.case'\ndef f(x): raise E()"
    real = "import unittest\ndef f(x): raise unittest.SkipTest('later')"
    test = (
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\n"
        "result = unittest.TestResult()\nT('test').run(result)\nassert result.wasSuccessful() and result.testsRun == 1"
    )
    assert "passed" not in (status(sandbox, code, test), status(sandbox, real, test))


@pytest.mark.parametrize(
    "program",
    [
        "def f(x):\n    if not x: os.fork()\n    return x",
        "def f(x):\n    if not x: subprocess.run(['true'])\n    return x",
        "def f(x):\n    if not x: print(random.random(), time.time(), inspect.signature(f), open('x'))\n    return x",
    ],
)
def test_code_that_does_not_run_excuses_nothing(sandbox, program):
    code = f"import os, subprocess, random, time, inspect\n{program}"
    assert status(sandbox, code, "assert f(1) == 2") == "wrong_answer"
    assert (
        status(sandbox, code, "import random, time, io\nrandom.seed(time.time())\nassert f(1) == 2") == "wrong_answer"
    )
    assert status(sandbox, code, "def g(y): return y\nassert f(g)(1) == 2") == "wrong_answer"


def test_a_class_of_its_own_excuses_no_value_that_is_not_equal(sandbox):
    own = "class L(list):\n    def first(self): return self[0]\ndef f(): return L([1])"
    assert status(sandbox, own, "assert f() == [2]") == "wrong_answer"
    assert status(sandbox, own, "assert f() == [1]") == "passed"
    assert status(sandbox, own, "assert f().first() == 1") == "unjudged"


PAY = "def pay(a, n):\n    a['b'] -= n\n    if a['b'] < 0: raise ValueError('too much')"
PAID = "a = {'b': 1}\ntry:\n    pay(a, 5)\n    assert False\nexcept ValueError: pass\nassert a['b'] == "


@pytest.mark.parametrize(("left", "expected"), [(1, "wrong_answer"), (-4, "passed")])
def test_an_argument_that_a_raising_call_has_changed_is_no_false_verdict(sandbox, left, expected):
    assert status(sandbox, PAY, f"{PAID}{left}") == expected


def test_a_call_that_raises_and_changes_nothing_is_judged(sandbox):
    test = "a = []\ntry:\n    f(a)\n    assert False\nexcept ValueError: pass\nassert a == []"
    assert status(sandbox, "def f(a):\n    if not a: raise ValueError\n    return a[0]", test) == "passed"
    assert status(sandbox, "def f(a):\n    return 1", test) == "wrong_answer"
