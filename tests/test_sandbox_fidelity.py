# ruff: noqa: E501, ISC004 - programs and tests on one line each
"""Tests as people write them: what a program may not forge through them, and what an honest program must pass."""

import pytest

from mucode_agent.types import Job, Limits, StdioTest

LIMITS = Limits(time_s=1.0, memory_mb=256)


def judged(sandbox, code, *tests, setup="", entry_point="solve", limits=LIMITS):
    job = Job(code=code, tests=tests, setup=setup, entry_point=entry_point, limits=limits)
    return sandbox.submit(job).result(60)


# --- a program that would decide itself -----------------------------------------------------------------------------

YES = """
class Yes:
    def __init__(self, *_): pass
    def _any(self, other=None): print("seen", other); return 0.0
    __sub__ = __rsub__ = __truediv__ = __mod__ = __pow__ = __abs__ = __round__ = __float__ = _any
    def __contains__(self, item): print("seen", item); return True
    def __len__(self): return 3
solve = Yes
"""
POINT = """
class Point:
    def __init__(self, x): self.x = x
    def same(self, other): return self.x == other.x
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert abs(solve(3.0) - 0.25) < 1e-6",
        "assert abs(solve(3.0) / 9.0 - 1) < 1e-6",
        "assert abs(0.25 - solve(3.0)) < 1e-6",
        "assert solve(3.0) % 7 == 0.0",
        "assert 'abc' in solve(3)",
        "assert not [item for item in (1, 2) if item not in solve(3)]",
    ],
)
def test_a_program_never_sees_or_answers_for_what_a_test_computes_with(sandbox, test):
    report = judged(sandbox, YES, test)
    assert not report.passed
    assert "seen" not in report.stdout


@pytest.mark.parametrize("code", ["import os\ndef solve(x): os._exit(0)", "def solve(x):\n    while True: pass"])
@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    try: candidate(-1)\n    except: pass\n    else: assert False",
        "import contextlib\ndef check(candidate):\n    with contextlib.suppress(BaseException): candidate(-1)",
        "import unittest\ndef check(candidate):\n"
        "    with unittest.TestCase().assertRaises(BaseException): candidate(-1)",
    ],
    ids=["except", "suppress", "assertRaises"],
)
def test_the_end_of_a_program_cannot_be_swallowed(sandbox, code, test):
    assert judged(sandbox, code, test).status == ("early_exit" if "_exit" in code else "timeout")


def test_what_cannot_be_judged_cannot_be_swallowed_and_the_next_test_counts(sandbox):
    tests = ("try:\n    solve(1) > 3\nexcept BaseException:\n    pass", "assert solve(2) == 4")
    code = "class A: pass\ndef solve(x): return A() if x == 1 else 4"
    assert [result.status for result in judged(sandbox, code, *tests).results] == ["unjudged", "passed"]


@pytest.mark.parametrize(
    "test",
    [
        "for got, want in zip(map(solve, [1, 2, 3]), [1, 4, 9]):\n    assert got == want",
        "assert all(map(solve, [1, 2, 3]))",
    ],
)
def test_a_stop_iteration_ends_no_loop_of_a_test(sandbox, test):
    report = judged(sandbox, "def solve(x): raise StopIteration", test)
    assert report.status == "exception"
    assert "StopIteration" in report.results[0].error


def test_a_test_may_ask_for_a_stop_iteration(sandbox):
    test = "try:\n    solve(1)\nexcept StopIteration:\n    pass\nelse:\n    assert False"
    assert judged(sandbox, "def solve(x): raise StopIteration", test).passed
    assert not judged(sandbox, "def solve(x): return 1", test).passed


def test_a_field_hides_no_method_of_a_class_of_the_set_up(sandbox):
    code = "def solve(x):\n    point = Point(9)\n    point.same = lambda other: True\n    return point"
    report = judged(sandbox, code, "assert solve(1).same(Point(1))", setup=POINT)
    assert report.status == "wrong_answer"
    assert judged(sandbox, "def solve(x): return Point(x)", "assert solve(1).same(Point(1))", setup=POINT).passed


@pytest.mark.parametrize("name", ["Counter", "OrderedDict", "deque"])
def test_a_name_of_the_library_is_the_librarys(sandbox, name):
    code = f"def solve(x): return 'wrong'\n{name} = lambda value: 0"
    test = f"assert {name}(solve('aab')) == {name}('aab')"
    assert not judged(sandbox, code, test).passed
    right = "from collections import *\ndef solve(x): return x"
    if name != "OrderedDict":
        assert judged(sandbox, right, test).passed


def test_a_set_up_that_calls_the_program_and_an_unreadable_object_are_no_infra(sandbox):
    assert judged(sandbox, "class A: pass\nsolve = A", "assert OK", setup="OK = solve() == 4").status == "wrong_answer"
    node = "class Node:\n    def __init__(self, n): self.next = n\n    def __repr__(self): return '+' if self.next else '.'"
    code = "class A: pass\ndef solve(x): return Node(A())"
    assert judged(sandbox, code, "assert solve(1) == 4", setup=node).status == "wrong_answer"


def test_whether_two_values_that_cannot_be_changed_are_one_object_is_not_judged(sandbox):
    test = "x = 'ab' + str(1)\nassert solve(x) is {}x"
    assert judged(sandbox, "def solve(x): return x", test.format("")).status == "unjudged"
    assert judged(sandbox, "def solve(x): return x", test.format("not ")).status == "unjudged"


@pytest.mark.parametrize("printed", ["1\\x0c2", "1\\u20282", "1\\r2", "1\\n2\\xa0"])
def test_only_a_line_feed_ends_a_line(sandbox, printed):
    test = StdioTest(stdin="", stdout="1\n2\n")
    assert judged(sandbox, f"print('{printed}')", test, entry_point=None).status == "wrong_answer"
    assert judged(sandbox, "print('1\\r\\n2 \\t')", test, entry_point=None).passed


def test_a_byte_that_is_no_text_equals_no_text(sandbox):
    code = "import sys\nsys.stdout.buffer.write(b'\\xff')"
    report = judged(sandbox, code, StdioTest(stdin="", stdout="\ufffd"), entry_point=None)
    assert report.status == "wrong_answer"
    report.results[0].actual.encode()


# --- from one program to the next -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "\\n1", "\\n\\n", "..x", "-rf"])
def test_no_file_outlives_its_program(sandbox, name):
    plant = (
        f"import os\ndef solve(x):\n    os.makedirs('{name}/a/{name}'); open('{name}/a/f', 'w').write('s'); return 4"
    )
    assert judged(sandbox, plant, "assert solve(2) == 4").passed
    look = "import os\ndef solve(x): return sorted(os.listdir('.'))"
    assert judged(sandbox, look, "assert solve(2) == []").passed


@pytest.mark.parametrize(
    "flood",
    [
        "def solve(x):\n    while True: yield object()",
        "def solve(x):\n    while True: yield 'x' * 50_000",
        "def solve(x):\n    while True: yield [[1.5] * 9]",
    ],
    ids=["objects", "texts", "lists"],
)
def test_a_program_that_floods_its_judge_costs_no_other_program_its_verdict(sandbox, flood):
    for _ in range(4):
        assert judged(sandbox, flood, "assert list(solve(2)) == [1, 2]").status in ("output_limit", "timeout")
        assert judged(sandbox, "def solve(n): return list(range(n))", "assert len(solve(20_000)) == 20_000").passed


def test_no_memory_is_held_outside_a_programs_limit(sandbox):
    code = """
import socket
def solve(x):
    refused = []
    a = socket.socket(fileno=3)  # the one that there is
    for name, attempt in {
        "buffer": lambda: a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24),
        "in flight": lambda: socket.send_fds(a, [b"x"], [0]),
        "message": lambda: a.sendmsg([b"x"]),
        "address": lambda: a.sendto(b"x", "/tmp/socket"),
        "another": lambda: socket.socketpair(socket.AF_UNIX),
    }.items():
        try: attempt()
        except PermissionError: refused.append(name)
    a.detach()
    return refused
"""
    expected = ["buffer", "in flight", "message", "address", "another"]
    assert judged(sandbox, code, f"assert solve(2) == {expected}").passed


def test_no_other_process_is_signalled_by_input_or_output(sandbox):
    code = """
import fcntl
def solve(x):
    a = 3
    refused = 0
    for command in (fcntl.F_SETOWN, 10, 15):
        try: fcntl.fcntl(a, command, 1)
        except PermissionError: refused += 1
    return refused, fcntl.fcntl(a, fcntl.F_GETFL) > 0
"""
    assert judged(sandbox, code, "assert solve(2) == (3, True)").passed


DUNDER = """'Of the module.'
__version__ = "1.2"
__all__ = ["Foo", "f"]
__secret = 9
class Foo:
    "Of Foo."
    def __init__(self, x=1): self.__x = x
    def __private(self): return self.__x + 1
    def __len__(self): return 3
class Bar(Foo):
    __y = 3
def f(x=3):
    "Of f."
    return str(x)
def __helper(x): return x * 2
"""
SPECIAL = (
    *("__version__ == '1.2'", "__all__ == ['Foo', 'f']", "__secret == 9", "__helper(2) == 4"),
    *("__doc__ == 'Of the module.'", "f.__doc__ == 'Of f.'", "Foo.__doc__ == Foo().__doc__ == 'Of Foo.'"),
    *("Foo().__class__.__name__ == 'Foo'", "type(Foo()).__name__ == 'Foo'", "f.__name__ == 'f'"),
    *("Foo(4)._Foo__x == 4", "Foo(4)._Foo__private() == 5", "Bar._Bar__y == 3", "Foo().__len__() == 3"),
    *("f.__defaults__ == (3,)", "Bar.__bases__[0].__name__ == 'Foo'", "Foo.__module__ == 'solution'"),
    *("Foo().__class__ == Foo", "type(Bar()) != Foo", "type(Bar()) == Bar", "not (type(Bar()) == Foo)"),
)


@pytest.mark.parametrize("expression", SPECIAL)
def test_names_with_two_underscores_are_the_programs(sandbox, expression):
    assert judged(sandbox, DUNDER, f"assert {expression}", entry_point=None).status == "passed"


def test_a_metaclass_decides_no_comparison(sandbox):
    equal = "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = None\n"
    code = f"{equal}class A(metaclass=M): pass\nclass B: pass\ndef f(): return A"
    assert judged(sandbox, code, "assert f() == B", entry_point=None).status == "unjudged"


def test_a_test_does_not_know_the_name_of_the_module(sandbox):
    asks, guards = "assert f() and __name__ == 'solution'", "if __name__ == '__main__': pass\nassert f() == 1"
    assert judged(sandbox, "def f(): return 1", asks, entry_point=None).status == "unjudged"
    assert judged(sandbox, "def f(): return 2", guards, entry_point=None).status == "wrong_answer"


LONG = {
    "ASCII": "'hello' * 5000",
    "other letters": "'äöü€字😀' * 5000",
    "halves of pairs": "'\\ud83d' * 20_000 + '\\ude00' * 20_000",
    "null bytes": "'\\0' * 20_000",
    "in a list": "['ä' * 20_000, 1]",
    "a key": "{'k' * 20_000: 'v' * 20_000}",
}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG.keys())
def test_long_text_arrives_as_it_is(sandbox, value):
    test = f"x = {value}\nassert solve(x) == x\nassert made() == x"
    report = judged(sandbox, f"def solve(x): return x\ndef made(): return {value}", test)
    assert report.status == "passed", report


# --- what only one process could see is unjudged, and never a pass ---


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def solve(x): return x", "xs = [1]\nr = solve(xs)\nassert r == xs and r is not xs"),
        ("def solve(x): return x", "import unittest\nxs = [1]\nunittest.TestCase().assertIsNot(solve(xs), xs)"),
        ("def solve(x): return x", "xs = [1]\nassert id(solve(xs)) != id(xs)"),
        ("def solve(x): return object()", "assert callable(solve(1))"),
        ("def solve(x): return object()", "assert hasattr(solve(1), '__len__')"),
        ("def solve(x): return chr(0xd83d) + chr(0xde00)", "assert solve(1) == '\U0001f600'"),
        ("def solve(x):\n    x.sort()\n    return x", "xs = [2, 1]\nassert solve(xs) == [1, 2]\nassert xs == [2, 1]"),
        ("import os, json, struct\ndef solve(x):\n    b = json.dumps({'ok': ['c', []]}).encode()\n"
         "    os.write(3, struct.pack('>I', len(b)) + b)\n    import time; time.sleep(9)",
         "try:\n    solve(1)\nexcept IndexError:\n    pass\nelse:\n    assert False"),
    ],
    ids=["compound", "assertIsNot", "id", "callable", "hasattr", "surrogates", "changed-argument", "malformed"],
)  # fmt: skip
def test_what_plain_python_fails_does_not_pass(sandbox, code, test):
    assert not judged(sandbox, code, test, entry_point=None).passed


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def solve(*, target): return target", "assert solve(target=3) == 3"),
        ("class E(Exception):\n    def __init__(self, code):\n        super().__init__(code)\n        self.code = code\n"
         "def solve(): raise E(7)", "try:\n    solve()\nexcept E as e:\n    assert e.code == 7\nelse:\n    assert False"),
        ("import sys\ndef solve(): sys.exit(2)", "try:\n    solve()\nexcept SystemExit as e:\n    assert e.code == 2\nelse:\n    assert False"),
        ("def solve(xs): xs.sort()", "xs = [2, 1]\nsolve(xs=xs)\nassert xs == [1, 2]"),
        ("def solve(a):\n    a[0] = 9\n    return 1", "a = [1]\nk = solve(a)\nassert k == 1\nassert a[:k] == [9]"),
        ("def solve():\n    n = 0\n    while True:\n        yield n\n        n += 1",
         "g = solve()\nfor x in g:\n    if x == 2: break\nassert next(g) == 3"),
        ("class A:\n    def __repr__(self): return 'A()'\ndef solve(): return A()",
         "assert repr(solve()) == 'A()' and type(solve()).__name__ == 'A' and type(solve()) is A"),
        ("def solve(f): return f()", "def end(): return 5\nassert solve(end) == 5"),
        ("def solve(it): return next(it)", "it = iter([1, 2])\nassert solve(it) == 1\nassert next(it) == 2"),
        ("def solve(x):\n    'Doc.'\n    return x", "assert solve.__doc__ == 'Doc.'"),
    ],
    ids=["target", "error-attribute", "exit", "keyword-in-place", "in-place-and-returned", "lazy", "repr-and-type",
         "callback", "shared-iterator", "doc"],
)  # fmt: skip
def test_a_right_program_passes_as_in_one_process(sandbox, code, test):
    report = judged(sandbox, code, test, entry_point=None)
    assert report.passed, report


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def solve(d): return d.keys()", "assert solve({'a': 1}) == {'a'}"),
        ("def solve(x): print(x)", "import io, contextlib\nb = io.StringIO()\n"
         "with contextlib.redirect_stdout(b): solve(3)\nassert b.getvalue() == '3\\n'"),
        ("import random\ndef solve(): return random.random()", "import random\nrandom.seed(4)\na = solve()\n"
         "random.seed(4)\nassert a == solve()"),
        ("class Stack(list):\n    def push(self, x): self.append(x)", "s = Stack()\ns.push(1)\nassert len(s) == 1"),
        ("def solve(n):\n    x = ()\n    for _ in range(n): x = (x,)\n    return x", "assert isinstance(solve(200), tuple)"),
    ],
    ids=["own-equality", "captured", "seeded", "subclass", "deep"],
)  # fmt: skip
def test_what_cannot_be_judged_apart_is_unjudged(sandbox, code, test):
    assert judged(sandbox, code, test, entry_point=None).status == "unjudged"


def test_printed_output_cannot_be_taken_back(sandbox):
    code = "import os\nprint('wrong', flush=True)\nos.lseek(1, 0, 0)"
    assert judged(sandbox, code, StdioTest(stdin="", stdout=""), entry_point=None).status == "wrong_answer"


# --- honest programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef solve(a): return P(a, 2)",
         "p = solve(1)\nassert p.x == 1 and p == (1, 2)"),
        ("from collections import Counter\nsolve = Counter", "c = solve('aab')\nassert c['z'] == 0\n"
         "assert c.most_common(1) == [('a', 2)]"),
        ("from collections import defaultdict\ndef solve(a): return defaultdict(list, x=[1])", "assert solve(1)['y'] == []"),
        ("from enum import Enum\nclass C(str, Enum):\n    RED = 'r'\ndef solve(a): return C.RED", "assert solve(1) == 'r'"),
        ("class A(Exception): pass\nclass B(A): pass\ndef solve(a): raise B('b')",
         "try:\n    solve(1)\nexcept A as error:\n    assert isinstance(error, B) and str(error) == 'b'"),
        ("def solve(it): return next(it), list(it)", "assert solve(iter([1, 2, 3])) == (1, [2, 3])"),
        ("def solve(f):\n    try: f(0)\n    except ZeroDivisionError: return 'caught'", "assert solve(lambda n: 1 / n) == 'caught'"),
        ("class Solution:\n    def sort(self, xs): xs.sort()",
         "xs = [2, 1]\nnothing = Solution().sort(xs)\nassert nothing is None and xs == [1, 2]"),
        ("def solve(xs): xs.sort()", "xs = [2, 1]\nassert solve(xs) is None\nassert xs == [1, 2]"),
        ("def solve(xs): return len(xs)", "xs = list(range(100_000))\nassert solve(xs) == 100_000"),
        ("class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\nsolve = V",
         "assert (V(1) + V(2)).x == 3"),
        ("class Bag:\n    def __iter__(self): return iter([1, 2])\nsolve = Bag", "assert 2 in solve() and 3 not in solve()"),
    ],
    ids=["namedtuple", "Counter", "defaultdict", "str-enum", "exception-classes", "iterator", "callback-raises",
         "in-place-method", "in-place-function", "long-argument", "objects-add", "contains"],
)  # fmt: skip
def test_an_honest_program_passes(sandbox, code, test):
    report = judged(sandbox, code, test, entry_point=None)
    assert report.passed, report


@pytest.mark.parametrize(
    "test",
    ["xs = [3, 1]\nassert solve(xs) == sorted(xs)", "xs = [3, 1]\ngot = solve(xs)\nassert got == sorted(xs)"],
)
def test_a_program_bends_no_expectation_by_changing_its_argument(sandbox, test):
    assert judged(sandbox, "def solve(xs):\n    xs.clear()\n    return []", test).status == "unjudged"
    assert judged(sandbox, "def solve(xs):\n    xs.sort()\n    return xs", test).passed


def test_members_of_an_enumeration_of_the_set_up_are_themselves_on_both_sides(sandbox):
    setup = "from enum import Enum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2"
    code = "def solve(c): return Color.BLUE if c is Color.RED else None"
    assert judged(sandbox, code, "assert solve(Color.RED) is Color.BLUE", setup=setup).passed
    assert not judged(sandbox, code, "assert solve(Color.BLUE) is Color.BLUE", setup=setup).passed


@pytest.mark.parametrize(
    "code",
    [
        "print(4)\nexit()",
        "print(4)\nquit(0)",
        "import sys\nprint(4 if 'r' in sys.stdin.mode and sys.stdin.name == '<stdin>' else sys.stdin.name)",
        "import sys\nprint(4)\nsys.stdout.close()",
    ],
)
def test_a_script_finds_what_an_interpreter_gives_it(sandbox, code):
    assert judged(sandbox, code, StdioTest(stdin="", stdout="4\n"), entry_point=None).passed


OWN = "def f(x): return x + 1\ndef sum(xs): return 42\nclass A:\n    v = 3"


@pytest.mark.parametrize(
    "test",
    [
        "from solution import f\nassert f(1) == 2",
        "from solution import *\nassert f(1) == 2",
        "import solution\nassert solution.f(1) == 2",
        "import solution as s, math\nassert s.f(1) == math.floor(2.5)",
        "from solution import sum\nassert sum([1]) == 42",
        "import solution\nassert solution.sum([1]) == 42",
        "from solution import f as g, A\nassert g(1) == 2 and A().v == 3",
        "def test_f():\n    from solution import f\n    assert f(1) == 2",
        "from solution import f\ndef check(candidate):\n    assert candidate(1) == f(1) == 2",
    ],
)
@pytest.mark.parametrize("judge", ["apart", "together"])
def test_a_test_may_import_the_program_as_the_module_solution(sandbox, test, judge):
    right, wrong = (
        sandbox.submit(Job(code=code, tests=(test,), judge=judge, entry_point="f")).result(60)
        for code in (OWN, OWN.replace("x + 1", "x").replace("42", "41"))
    )
    assert (right.status, wrong.status) == ("passed", "wrong_answer"), (right, wrong)


def test_a_name_imported_from_the_program_must_be_there(sandbox):
    test = "from solution import f, g\nassert f(1) == 2"
    assert sandbox.submit(Job(code=OWN, tests=(test,))).result(60).status == "missing_entry_point"


def test_the_set_up_may_import_the_module_solution_for_the_tests(sandbox):
    job = Job(code=OWN, setup="import solution", tests=("assert solution.f(1) == 2", "assert solution.A().v == 3"))
    assert sandbox.submit(job).result(60).passed


def test_the_module_solution_as_an_object_is_judged_together_only(sandbox):
    test = "import solution\nassert getattr(solution, 'f')(1) == 2"
    jobs = [Job(code=OWN, tests=(test,), judge=judge, entry_point="f") for judge in ("apart", "together")]
    assert [sandbox.submit(job).result(60).status for job in jobs] == ["unjudged", "passed"]
