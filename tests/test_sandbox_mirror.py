# ruff: noqa: E501 - programs and tests on one line each
"""Values that test and program share are one object, as in one process: what either changes, the other sees.

Each case is a program, an end of a test that plain Python passes, and one that it fails.
"""

import pytest

from mucode_agent.types import Job, Limits


def status(sandbox, code, test, **more):
    return sandbox.submit(Job(code=code, tests=(test,), limits=Limits(time_s=2.0), **more)).result(60).status


SAME, COPY = "def f(x): return x", "def f(x): return list(x)"
HOLDS = "class f:\n    def __init__(s, xs): s.xs = xs\n    def n(s): return len(s.xs)\n    def push(s): s.xs.append(1)"
STACK = "class S:\n    def __init__(s): s.a = []\n    def get(s): return s.a\n    def copy(s): return list(s.a)\n    def push(s, v): s.a.append(v)\n    def n(s): return len(s.a)"
CACHED = "from functools import lru_cache\n@lru_cache\ndef f(n): return list(range(n))"
NODE = "class N:\n    def __init__(s, v): s.v = v; s.ch = []\n    def tot(s): return s.v + sum(c.tot() for c in s.ch)"
ROWS = "def f(n): return [[0] * n] * n"
DEFAULT = "def f(x, acc=[]):\n    acc.append(x)\n    return acc"
CASES = {
    "the argument, changed": (SAME, "x = [1]\ny = f(x)\ny.append(2)\nassert x == ", "[1, 2]", "[1]"),
    "the result, changed": (SAME, "x = [1]\ny = f(x)\nx.append(2)\nassert y == ", "[1, 2]", "[1]"),
    "a copy, changed": (COPY, "x = [1]\ny = f(x)\ny.append(2)\nassert x == ", "[1]", "[1, 2]"),
    "the same dict": (SAME, "x = {'a': 1}\ny = f(x)\ny['b'] = 2\nassert len(x) == ", "2", "1"),
    "one row many times": (ROWS, "m = f(2)\nm[0][0] = 1\nassert m == ", "[[1, 0], [1, 0]]", "[[1, 0], [0, 0]]"),
    "identity of rows": (ROWS, "m = f(2)\nassert m[0] ", "is m[1]", "is not m[1]"),
    "ids of rows": (ROWS, "m = f(2)\nassert len({id(r) for r in m}) == ", "1", "2"),
    "one value given twice": ("def f(a, b):\n    a.append(1)\n    return len(b)", "x = []\nassert f(x, x) == ", "1", "0"),
    "rows given": ("def f(m):\n    m[0][0] = 9\n    return m[1][0]", "assert f([[0] * 2] * 2) == ", "9", "0"),
    "a cached result": (CACHED, "f(2).append(9)\nassert f(2) == ", "[0, 1, 9]", "[0, 1]"),
    "a cached result, by a name": (CACHED, "n = 2\nr = f(n)\nr.append(9)\nassert f(n) == ", "[0, 1, 9]", "[0, 1]"),
    "the argument, after a number": (SAME, "n = 1\nm = f(n)\nx = [m]\ny = f(x)\ny.append(2)\nassert x == ", "[1, 2]", "[1]"),
    "a mutable default": (DEFAULT, "a = f(1)\nb = f(2)\nassert a == ", "[1, 2]", "[1]"),
    "what a getter gives": (STACK, "s = S()\ns.get().append(1)\nassert s.n() == ", "1", "0"),
    "what a getter gave": (STACK, "s = S()\ng = s.get()\ns.push(5)\nassert g == ", "[5]", "[]"),
    "a copy from a getter": (STACK, "s = S()\ng = s.copy()\ns.push(5)\nassert g == ", "[]", "[5]"),
    "held by the program": (STACK, "s = S()\nx = [1]\ns.push(x)\nx.append(2)\nassert s.get() == ", "[[1, 2]]", "[[1]]"),
    "changed by the test": (HOLDS, "xs = [1]\ng = f(xs)\nxs.append(2)\nassert g.n() == ", "2", "1"),
    "changed later by the program": (HOLDS, "xs = [1]\ng = f(xs)\ng.push()\nassert xs == ", "[1, 1]", "[1]"),
    "an attribute, changed": (HOLDS, "g = f([1])\ng.xs.append(2)\nassert g.n() == ", "2", "1"),
    "objects in an attribute": (NODE, "r = N(1)\nr.ch.append(N(2))\nr.ch[0].ch.append(N(5))\nassert r.tot() == ", "8", "3"),
    "within a result": ("def f(x): return {'v': x, 'w': [x]}", "x = [1]\nr = f(x)\nr['v'].append(2)\nassert r['w'] == ", "[[1, 2]]", "[[1]]"),
    "a function of the test": ("def f(g):\n    xs = [2, 1]\n    g(xs)\n    return xs", "def g(xs): xs.sort()\nassert f(g) == ", "[1, 2]", "[2, 1]"),
    "from a function of the test": ("def f(g): g().append(2)", "xs = [1]\nf(lambda: xs)\nassert xs == ", "[1, 2]", "[1]"),
    "an iterator of it": ("def f(x): return iter(x)", "x = [1]\ni = f(x)\nx.append(3)\nassert list(i) == ", "[1, 3]", "[1]"),
    "a view of it": ("def f(d): return d.values()", "d = {'a': 1}\nv = f(d)\nd['b'] = 2\nassert list(v) == ", "[1, 2]", "[1]"),
    "a generator that changes it": ("def f(x):\n    for v in list(x):\n        yield v\n        x.append(0)", "x = [1, 2]\nlist(f(x))\nassert x == ", "[1, 2, 0, 0]", "[1, 2]"),
    "a row replaced": ("def f(g): g[0] = [9]", "g = [[1], [2]]\nr = g[0]\nf(g)\nassert (r, g[0]) == ", "([1], [9])", "([9], [9])"),
    "rows swapped": ("def f(a, b): a[:], b[:] = b[:], a[:]", "g = [[1], [2]]\nf(*g)\nassert g == ", "[[2], [1]]", "[[1], [2]]"),
    "what contains itself": ("def f():\n    x = []\n    x.append(x)\n    return x", "r = f()\nassert r[0] ", "is r", "is not r"),
    "deep": ("def f(n):\n    x = []\n    for _ in range(n): x = [x]\n    return x", "x, n = f(900), 0\nwhile x: x, n = x[0], n + 1\nassert n == ", "900", "901"),
    "a bounded deque": ("def f(d):\n    d.append(1)\n    return d", "from collections import deque\nd = deque([5], maxlen=2)\nr = f(d)\nr.append(7)\nassert list(r) == ", "[1, 7]", "[5, 1, 7]"),
    "a default dict": ("from collections import defaultdict\nd = defaultdict(list)\ndef f(k):\n    d[k].append(1)\n    return d", "r = f('a')\nr['b'].append(2)\nassert f('b')['b'] == ", "[2, 1]", "[1]"),
    "bytes": ("def f(b):\n    b[0] = 65\n    return b", "b = bytearray(b'xyz')\nr = f(b)\nr[1] = 66\nassert r == ", "b'ABz'", "b'Ayz'"),
    "a variable, changed": ("count = 0\ndef inc():\n    global count\n    count += 1", "inc()\nassert count == ", "1", "0"),
    "a variable, in a function": ("count = 0\ndef inc():\n    global count\n    count += 1", "def t():\n    inc()\n    return count\nassert t() == ", "1", "0"),
    "a list of the module": ("seen = []\ndef note(v): seen.append(v)", "seen.append(1)\nnote(2)\nassert seen == ", "[1, 2]", "[1]"),
    "a table of the module": ("memo = {}\ndef f(n): memo[n] = n * n", "memo[5] = 1\nf(2)\nassert memo == ", "{5: 1, 2: 4}", "{5: 1}"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test", "right", "wrong"), CASES.values(), ids=CASES.keys())
def test_a_shared_value_is_one_object(sandbox, code, test, right, wrong):
    assert status(sandbox, code, test + right) == "passed"
    assert status(sandbox, code, test + wrong) == "wrong_answer"


LINKED = """
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
def linked(values):
    head = None
    for value in reversed(values): head = Node(value, head)
    return head
def values(head):
    found = []
    while head: found.append(head.value); head = head.next
    return found
"""
REVERSE = "def f(h):\n    p = None\n    while h: h.next, p, h = p, h, h.next\n    return p"
CYCLE = "def f(h):\n    seen = set()\n    while h and id(h) not in seen: seen.add(id(h)); h = h.next\n    return h"


@pytest.mark.parametrize(
    ("code", "test", "right", "wrong"),
    [
        (REVERSE, "assert values(f(linked(list(range(600)))))[:2] == ", "[599, 598]", "[0, 1]"),
        (REVERSE, "h = linked([1, 2])\nf(h)\nassert h.next is ", "None", "h"),
        (CYCLE, "h = linked([1, 2, 3])\nh.next.next.next = h.next\nassert f(h) is ", "h.next", "h"),
        ("import copy\nf = copy.deepcopy", "h = linked([1, 2])\nassert f(h).next ", "is not h.next", "is h.next"),
        ("def f(h): return h", "h = linked([1, 2])\nassert f(h) ", "is h", "is not h"),
    ],
    ids=["long", "in-place", "cycle", "clone", "no-clone"],
)
def test_linked_objects_of_the_set_up_are_one_structure(sandbox, code, test, right, wrong):
    assert status(sandbox, code, test + right, setup=LINKED) == "passed"
    assert status(sandbox, code, test + wrong, setup=LINKED) == "wrong_answer"


def test_more_values_than_are_watched_cross_as_copies_and_fail_nobody(sandbox):
    code = "def f(m):\n    m[0].append(1)\n    return m"
    limits = Limits(time_s=20, output_kb=8_000, memory_mb=1024)
    tests = (
        "m = [[i] for i in range(60_000)]\nr = f(m)\nassert r[0] == [0, 1] and len(r) == 60_000",
        "m = [[i] for i in range(60_000)]\nr = f(m)\nr[1].append(5)\nassert m[1] == [1, 5]",
    )
    found = [sandbox.submit(Job(code=code, tests=(test,), limits=limits)).result(60).status for test in tests]
    assert found[0] == "passed"
    assert found[1] == "unjudged"
