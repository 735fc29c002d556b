# ruff: noqa: E501 - programs and tests on one line each
"""Enumerations that are no fixed data, names that stand for objects, and what programs do to both: a right program never
fails, and no wrong one passes.
"""

import pytest

from mucode_agent.types import Job, Limits

E = "import enum\nfrom enum import *\n"
COLOR = f"{E}class Color(Enum):\n    RED = 1\n    GREEN = 2\ndef f(n): return Color(n)\n"
SET_UP = "from enum import *\nclass Color(Enum):\n    RED = 1\n    GREEN = 2"
VALUE = f"{E}class Color(Enum):\n    RED = 1\n    @property\n    def value(self): return 10\n    @property\n    def name(self): return 'r'\ndef f(): return Color.RED"
LISTS = f"{E}class Kept(Enum):\n    ITEMS = []\ndef add(x): Kept.ITEMS.value.append(x); return x"
NANS = f"{E}class F(Enum):\n    A = float('nan')\n    B = float('nan')\ndef f(): return F.B"
RENAMED = f"{COLOR}def g():\n    Color.GREEN._name_ = 'RED'\n    return Color.GREEN"
IDENTITY = "def g(): pass\ndef h(): pass\nclass G: pass\nclass K: pass\ndef f(n): return (h, K)[n]\n"
PATCHED = f"{IDENTITY}import gc\nfor m in gc.get_objects():\n    if type(m) is dict and 'equality' in m and 'truth' in m: m['is'] = lambda a, b: True; m['equality'] = lambda a: 'none'\n"
ERROR = f"{E}class Code(IntEnum):\n    A = 4\n    B = 5\nclass Err(Exception):\n    def __init__(s, c): super().__init__('x', c); s.code = c\ndef f(): raise Err(Code.A)"
CAUGHT = "try: f()\nexcept Err as e: found = e\n"


def judged(sandbox, code, test, setup=""):
    return sandbox.submit(Job(code=code, tests=(test,), setup=setup, limits=Limits(time_s=1.0))).result(60)


RIGHT = {
    "own value and name": (VALUE, "assert f().value == 10 and f().name == 'r' and f() is Color.RED"),
    "values that change": (LISTS, "add(1)\nassert Kept.ITEMS.value == [1]"),
    "values that the test changes": (f"{E}class Kept(Enum):\n    ITEMS = {{}}\ndef get(x): return Kept.ITEMS.value.get(x)", "Kept.ITEMS.value[1] = 2\nassert get(1) == 2"),
    "values of other enumerations": (f"{E}class Other(IntEnum):\n    X = 1\nclass Color(Enum):\n    A = Other.X\n    B = (Other.X, 2)\ndef f(): return Color.A", "assert f().value is Other.X and f().value.name == 'X' and Color.B.value[0].name == 'X'"),
    "two that are no number": (NANS, "assert f() is F.B and f() is not F.A and len(F) == 2"),
    "members made later": (f"{E}class Color(Enum):\n    RED = 1\n    @classmethod\n    def _missing_(cls, v):\n        m = object.__new__(cls); m._name_, m._value_ = f'C{{v}}', v\n        return cls._value2member_map_.setdefault(v, m)\ndef f(n): return Color(n)", "assert f(5).value == 5 and f(5).name == 'C5' and f(5) is f(5) and f(1) is Color.RED"),
    "large values": (f"{E}class T(Enum):\n    A = tuple(range(200000))\n    B = 'x' * 400000\ndef f(): return T.B", "assert f() is T.B and f().name == 'B'"),
    "made within a function": (f"{E}def made():\n    class Color(Enum):\n        RED = 1\n    return Color\nColor = made()\ndef f(): return Color.RED", "assert type(f()).__qualname__ == 'made.<locals>.Color' and f() is Color.RED"),
    "another name": (f"{COLOR}Colour = Color", "assert f(1) is Colour.RED and isinstance(f(1), Colour) and Colour is Color and [c.name for c in Colour] == ['RED', 'GREEN']"),
    "the class of the class": (COLOR, "assert type(Color).__name__ == 'EnumType'\ntry: 1 in Color\nexcept TypeError as e: assert 'EnumType' in str(e)"),
    "patterns": (COLOR, "match f(1):\n    case Color.GREEN: r = 2\n    case Color(value=v): r = v\nassert r == 1"),
    "numbers with bits of no name": (f"{E}class B(IntFlag):\n    X = 1\n    Z = -8\ndef f(n): return B(n)", "assert f(-1) == B(-1) and f(9) == 9 and (f(3) & B.X) is B.X and f(0).name is None and ~f(1) == ~B.X"),
    "new members": (f"{E}class C(Enum):\n    def __new__(cls, v, label):\n        o = object.__new__(cls); o._value_ = v; o.label = label\n        return o\n    A = (1, 'one')\n    B = (2, 'two')\ndef f(n): return C(n)", "assert f(2).label == 'two' and f(2) is C.B and {c.value: c.label for c in C} == {1: 'one', 2: 'two'}"),
    "changed in place": (f"{COLOR}def g(xs, d):\n    xs.sort(key=lambda c: c.value); d[Color.RED] = d.pop(Color.GREEN)", "xs, d = [Color.GREEN, Color.RED], {Color.GREEN: 5}\ng(xs, d)\nassert xs == list(Color) and d == {Color.RED: 5}"),
    "attributes of an error": (ERROR, CAUGHT + "assert found.code is Code.A and found.args[1].name == 'A' and found.args == ('x', Code.A)"),
    "an error that holds an object": ("class N: pass\nn = N(); n.v = 3\nclass Err(Exception):\n    def __init__(s, n): super().__init__('x', n); s.node = n\ndef f(): raise Err(n)\ndef g(): return n", CAUGHT + "assert found.node is g() and found.args[1].v == 3"),
    "what a name stands for": (IDENTITY, "assert f(0) is h and f(0) == h and f(0) != g and f(1) is K and f(1) != G and {g, h} > {f(0)} and {K: 1}[f(1)] == 1"),
    "a hash of a metaclass": ("class M(type):\n    def __getattribute__(c, n):\n        if n == '__hash__': raise ValueError\n        return super().__getattribute__(n)\nclass A(metaclass=M):\n    x = 3\ndef f(): return A()", "assert f().x == 3"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), RIGHT.values(), ids=RIGHT)
@pytest.mark.filterwarnings("ignore:in 3.12 __contains__:DeprecationWarning")
def test_an_honest_program_passes(sandbox, code, test):
    exec(compile(f"{code}\n{test}", "plain", "exec"), {"__name__": "solution"})
    report = judged(sandbox, code, test)
    assert report.passed, report


UNSURE = {
    "an enumeration of the set-up again": (SET_UP + "\ndef f(n): return Color(n)", "assert f(1) == Color.RED", SET_UP),
    "the same as a key": (SET_UP + "\ndef f(n): return {Color(n): 1}", "assert f(1) == {Color.RED: 1}", SET_UP),
    "the same as an argument": (SET_UP + "\ndef f(c): return c is Color.RED", "assert f(Color.RED)", SET_UP),
    "set by the test": (COLOR + "def g(c): return c.note", "Color.RED.note = 5\nassert g(Color.RED) == 5", ""),
    "set of the class": (COLOR + "def g(): return Color.note", "Color.note = 5\nassert g() == 5", ""),
    "listed": (COLOR.replace("def f", "    def m(self): pass\ndef f"), "assert 'm' in dir(f(1))", ""),
}


@pytest.mark.parametrize(("code", "test", "setup"), UNSURE.values(), ids=UNSURE)
def test_what_cannot_be_known_is_unjudged(sandbox, code, test, setup):
    assert judged(sandbox, code, test, setup).status == "unjudged"


WRONG = {
    "own value": (VALUE, "assert f().value == 1"),
    "own name": (VALUE, "assert f().name == 'RED'"),
    "a value that must stay": (LISTS, "add(1)\nassert Kept.ITEMS.value == []"),
    "another that is no number": (NANS, "assert f() is F.A"),
    "a member of another name": (RENAMED, "assert g() is Color.RED"),
    "a made-up flag": (f"{E}class P(Flag):\n    R = 1\ndef f():\n    m = object.__new__(P); m._value_, m._name_ = 1, None\n    return m", "assert f() == P.R"),
    "a name that says what equals it": (f"{COLOR}class S(str):\n    def __hash__(s): return hash('RED')\n    def __eq__(s, o): return True\ndef g():\n    Color.GREEN._name_ = S('GREEN')\n    return Color.GREEN", "assert g() is Color.RED"),
    "a class by another's name": (f"{COLOR}class Other(Enum):\n    RED = 1\ndef g():\n    Other.__name__ = 'Color'\n    return Other.RED", "assert g() is Color.RED"),
    "a function by its name": (PATCHED, "assert f(0) is g"),
    "an equal function": (PATCHED, "assert f(0) == g"),
    "a class by its name": (PATCHED, "assert f(1) is G"),
    "a key by its name": (PATCHED, "assert {f(1): 1} == {G: 1}"),
    "the code of an error": (ERROR, CAUGHT + "assert found.code is Code.B or found.args[1] is Code.B"),
    "an error that equals all": ("class N:\n    def __eq__(s, o): return True\n    def __str__(s): raise SystemExit(0)\nclass Err(Exception): pass\ndef f(): raise Err(N())", CAUGHT + "assert found.args[0] == 4"),
    "a hash that comes later": ("class A: pass\na = A()\ndef f(): return a\ndef h(): A.__hash__ = lambda s: 1; A.__eq__ = lambda s, o: True", "r = f()\nh()\nassert r in [4] or {r: 1} == {1: 1}"),
    "the module replaced": ("import sys, types\nreal = sys.modules['enum']\nsys.modules['enum'] = types.ModuleType('enum')\nclass Color(real.Enum):\n    RED = 1\n    GREEN = 2\ndef f(n): return Color.GREEN", "assert f(1) == Color.RED"),
    "a negative length": ("class A:\n    def __len__(s): return -1\ndef f(): return A()", "assert f()"),
    "only what differs": ("class A:\n    def __ne__(s, o): return False\ndef f(): return A()", "assert f() == 4"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), WRONG.values(), ids=WRONG)
def test_no_wrong_program_passes(sandbox, code, test):
    report = judged(sandbox, code, test)
    assert report.status in ("wrong_answer", "exception", "unjudged"), report
    assert not any(result.invalid_test for result in report.results)


def test_the_set_ups_members_are_not_the_programs(sandbox):
    setup = "from enum import Enum\nx = g()\nclass Color(Enum):\n    RED = 1"  # the judge alone can run it
    code = "from enum import Enum\ndef g(): return 0\nclass Color(Enum):\n    RED = 99\ndef f(n): return Color.RED"
    assert judged(sandbox, code, "assert f(1) is Color.RED and f(1).value == 1", setup).status == "unjudged"


FORGED = {
    "nothing": '"enums":{"Color":[]}',
    "a special name": '"enums":{"Color":[["str","Enum"],null,[],[["__eq__",["y","str"]]]]}',
    "a hook": '"enums":{"Color":[["Enum"],null,[],[["_missing_",["y","list"]],["RED",1]]]}',
    "no enumeration": '"enums":{"Color":[["int"],null,[],[["RED",1]]]}',
    "another method": '"enums":{"Color":[["Enum"],null,["__eq__"],[["RED",1]]]}',
    "a handle": '"enums":{"Color":[["Enum"],null,[],[["RED",["H",[0,"object","A",true]]]]]}',
    "a name twice": '"enums":{"Color":[["Enum"],null,[],[["RED",1],["RED",2]]]}',
    "bytes without end": '"enums":{"Color":[["bytes","Enum"],null,[],[["RED",800000000]]]}',
    "values that change": '"enums":{"Color":[["Enum"],null,[],[["RED",["v",[1]]]]]}',
    "another type of value": '"enums":{"Color":[["StrEnum"],null,[],[["RED",["t",[["b","00"],"idna"]]]]]}',
    "a class that is no enumeration": '"objects":{"Color":["e",["f",null]]}',
    "an object without a number": '"objects":{"f":["H",[]]}',
}


@pytest.mark.parametrize("told", FORGED.values(), ids=FORGED)
def test_what_no_honest_program_tells_is_its_end(sandbox, told):
    answer = f'{{"ok":null,"names":{{"Color":"class","f":"function"}},{told}}}'
    code = f"import os, struct\nb = {answer.encode()!r}\nos.write(3, struct.pack('>I', len(b)) + b)\nos.read(3, 9999)\nos._exit(0)"
    report = judged(sandbox, code, "assert f(1) == Color.RED")
    assert report.status == "early_exit"
    assert "interfered" in report.results[0].error


@pytest.mark.parametrize("code", ["def f(x): return 1", "f = lambda x: 1", "class A: pass\ndef f(x): return A()"])
@pytest.mark.parametrize(
    "test", ["def check(candidate): pass", "assert f", "x = f", "assert f is f", "assert f and not 0"]
)
def test_a_name_that_is_not_called_is_no_use_of_the_program(sandbox, code, test):
    assert sandbox.submit(Job(code=code, tests=(test,), entry_point="f")).result().status == "unjudged"
