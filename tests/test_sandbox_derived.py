# ruff: noqa: E501 - programs and tests on one line each
"""Objects of classes derived from list, dict, str and their like: no own method is taken for the base's.

What such an object holds is compared. What its class defines itself stays with the program: a test that needs it is
unjudged, and never passes where plain Python fails.
"""

import pytest

from mucode_agent.types import Job

MADE = {"list": "L()", "dict": "L()", "set": "L()", "str": "L()", "int": "L(0)", "float": "L(0)", "tuple": "L()", "frozenset": "L()", "bytes": "L()"}  # fmt: skip
HELD = {"list": "[1, 2]", "dict": "{1: 2}", "set": "{1, 2}", "str": "'ab'", "int": "3", "float": "2.5", "tuple": "(1, 2)", "frozenset": "frozenset({1, 2})", "bytes": "b'ab'"}  # fmt: skip


def status(sandbox, code, test, setup=""):
    return sandbox.submit(Job(code=code, tests=(test,), setup=setup)).result(60).status


@pytest.mark.parametrize("setup", [False, True], ids=["of-the-program", "of-the-set-up"])
@pytest.mark.parametrize(("base", "made"), MADE.items(), ids=MADE)
def test_the_truth_of_a_derived_object_is_not_that_of_its_base(sandbox, base, made, setup):
    kind = f"class L({base}):\n    def __bool__(self): return True\n"
    given = f"def f(): return {made}"
    code, before = (given, kind) if setup else (kind + given, "")
    assert status(sandbox, code, "assert not f()", before) == "unjudged"
    assert status(sandbox, code, "assert f()", before) == "unjudged"


@pytest.mark.parametrize(
    ("method", "test"),
    [
        ("def __len__(self): return 1", "assert not f()"),
        ("def __eq__(self, other): return False", "assert f() == {held}"),
        ("__hash__ = None", "assert len({{f()}}) == 1"),
        ("def __iter__(self): return iter([9])", "assert len(list(f())) == 2"),
        ("def __contains__(self, item): return True", "assert 7 not in f()"),
        ("def __str__(self): return 'q'", "assert str(f()) == str({held})"),
        ("def __add__(self, other): return 7", "assert f() + f() == {held} + {held}"),
        ("def __call__(self): return 7", "assert not callable(f()) or f()() == 8"),
        ("def first(self): return 7", "assert not hasattr(f(), 'first')"),
        ("size = 4", "assert getattr(f(), 'size', 5) == 5"),
        ("def __init__(self, *_): self.size = 4", "assert getattr(f(), 'size', 5) == 5"),
    ],
)
@pytest.mark.parametrize("base", ["list", "str", "tuple"])
def test_what_a_class_defines_itself_is_not_taken_from_its_base(sandbox, base, method, test):
    code = f"class L({base}):\n    {method}\ndef f(): return L({HELD[base]})"
    assert status(sandbox, code, test.format(held=HELD[base])) in ("unjudged", "wrong_answer")


@pytest.mark.parametrize("base", HELD)
def test_what_a_derived_object_holds_is_compared(sandbox, base):
    code = f"class L({base}):\n    def first(self): return 7\ndef f(): return L({HELD[base]})"
    assert status(sandbox, code, f"assert f() == {HELD[base]}") == "passed"
    assert status(sandbox, code, "assert f() == 9") == "wrong_answer"
    assert status(sandbox, code, "assert f().first() == 7") == "unjudged"


def test_a_named_tuple_with_methods_keeps_them_to_itself(sandbox):
    code = "from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    def norm(self): return 9\n    def __bool__(self): return False\ndef f(): return P(1)\ndef g(p): return p.norm()"
    assert status(sandbox, code, "assert f() == (1,) and f().x == 1") == "passed"
    assert status(sandbox, code, "assert g(P(1)) == 9") == "unjudged"
    assert status(sandbox, code, "assert f()") == "unjudged"


def test_a_derived_object_of_the_test_is_no_plain_one(sandbox):
    setup = "class L(list):\n    def __len__(self): return 42"
    assert status(sandbox, "def f(x): return len(x)", "assert f(L()) == 42", setup) == "unjudged"
    assert status(sandbox, "def f(x): return sum(x)", "class M(list): pass\nassert f(M([1, 2])) == 3") == "passed"
