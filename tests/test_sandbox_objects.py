# ruff: noqa: E501 - programs and tests on one line each
"""Truth and equality of a program's objects, and its enumerations: as in one process, and no verdict is bent.

The truth of an object is a bit that the program gives, as if it returned it. Whether two objects are one was settled
when they were given. Members of an enumeration are data, told before the program sees an argument.
"""

import pytest

from mucode_agent.types import Job, Limits

NODES = """
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
def build(values):
    head = None
    for value in reversed(values): head = Node(value, head)
    return head
def middle(head):
    slow = fast = head
    while fast and fast.next: slow, fast = slow.next, fast.next.next
    return slow
def cycle():
    a = Node(1); a.next = Node(2, a)
    return a
class Tree:
    def __init__(self, key, left=None, right=None): self.key, self.left, self.right = key, left, right
def insert(root, key):
    if root is None: return Tree(key)
    if key < root.key: root.left = insert(root.left, key)
    else: root.right = insert(root.right, key)
    return root
class Stack:
    def __init__(self): self.items = []
    def __len__(self): return len(self.items)
    def push(self, item): self.items.append(item)
    def pop(self): return self.items.pop()
class Account:
    def __init__(self, open): self.open = open
    def __bool__(self): return self.open
"""
ENUMS = """
from enum import Enum, IntEnum, StrEnum, Flag, IntFlag, auto, unique
@unique
class Color(Enum):
    \"\"\"Of a light.\"\"\"
    RED = 1
    GREEN = 2
    BLUE = auto()
    CRIMSON = RED if False else 4
class Level(IntEnum):
    LOW = 1
    HIGH = 3
class Unit(StrEnum):
    CM = auto()
    KG = "kg"
class Kind(str, Enum):
    A = "a"
    B = "b"
class Perm(Flag):
    R = auto()
    W = auto()
    RW = R | W
class Bits(IntFlag):
    X = 1
    Y = 2
class Planet(Enum):
    EARTH = (5.9, 6.4)
    MARS = (0.6, 3.4)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def density(self): return self.mass / self.radius
    @classmethod
    def heaviest(cls): return max(cls, key=lambda p: p.mass)
    def heavier(self, other): return self.mass > other.mass
    def __str__(self): return self.name.lower()
class Case(Enum):
    YES = 'yes'
    @classmethod
    def _missing_(cls, value): return cls.YES if str(value).lower() == 'yes' else None
class Inner:
    class State(Enum):
        ON = 1
        OFF = 2
    def __init__(self): self.state = self.State.OFF
    def flip(self): self.state = self.State.ON if self.state is self.State.OFF else self.State.OFF
def f(n): return Color(n)
def level(n): return Level.HIGH if n > 5 else Level.LOW
def perm(text): return Perm.R | Perm.W if text == 'rw' else Perm.R if text else Perm(0)
def count(xs):
    found = {}
    for x in xs: found[Color(x)] = found.get(Color(x), 0) + 1
    return found
def name(color): return color.name if isinstance(color, Color) else '?'
def enumeration(): return Color
def members(kind): return [member.name for member in kind]
"""

RIGHT = {
    "a linked list": (NODES, "node, seen = build([1, 2, 3]), []\nwhile node:\n    seen.append(node.value)\n    node = node.next\nassert seen == [1, 2, 3]"),
    "until it is None": (NODES, "node, n = build([1, 2]), 0\nwhile node != None:\n    n, node = n + 1, node.next\nassert n == 2"),
    "no list": (NODES, "assert not build([]) and build([1]) and bool(build([1])) is True"),
    "a node of a list": (NODES, "head = build([1, 2, 3])\nassert middle(head) == head.next and middle(head) != head and middle(head) is head.next"),
    "nodes in a set": (NODES, "node, seen = cycle(), set()\nwhile node not in seen:\n    seen.add(node)\n    node = node.next\nassert len(seen) == 2"),
    "a tree": (NODES, "root = None\nfor key in (2, 1, 3): root = insert(root, key)\ndef walk(t): return walk(t.left) + [t.key] + walk(t.right) if t else []\nassert walk(root) == [1, 2, 3]"),
    "a stack": (NODES, "s = Stack()\nassert not s\ns.push(1)\nassert s and len(s) == 1\ns.pop()\nassert not s"),
    "its own truth": (NODES, "assert Account(True) and not Account(False)\nassert [bool(Account(x)) for x in (0 == 0, 1 == 0)] == [True, False]"),
    "unittest's truth": (NODES, "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertTrue(build([1])); self.assertFalse(build([])); self.assertIsNotNone(build([1])); self.assertNotEqual(build([1]), None)"),
    "functions": ("def f(): return g\ndef g(): return 1", "assert f and f() and f() == g and f() != f"),
    "a matcher of the test": (NODES, "from unittest.mock import ANY\nassert build([1]) == ANY or True"),
    "members": (ENUMS, "assert f(1) == Color.RED and f(1) is Color.RED and f(2) != Color.RED and f(1) in (Color.RED, Color.GREEN)"),
    "names and values": (ENUMS, "assert f(1).name == 'RED' and f(3).value == 3 and repr(f(1)) == '<Color.RED: 1>' and str(f(1)) == 'Color.RED'"),
    "the class": (ENUMS, "assert Color(2) is Color.GREEN and Color['BLUE'] == f(3) and len(Color) == 4 and [c.value for c in Color] == [1, 2, 3, 4] and Color.__doc__ == 'Of a light.'"),
    "instances": (ENUMS, "assert isinstance(f(1), Color) and type(f(1)) is Color and isinstance(level(9), int) and issubclass(Level, int)"),
    "no such member": (ENUMS, "for call in (lambda: Color(9), lambda: f(9)):\n    try: call()\n    except ValueError as e: assert str(e) == '9 is not a valid Color'\n    else: assert False\ntry: Color['X']\nexcept KeyError: pass\nassert not hasattr(Color, 'PURPLE')"),
    "in lists": (ENUMS, "assert [f(1), f(2)] == [Color.RED, Color.GREEN] and f(2) in [Color.GREEN] and [f(1)] != [f(2)]"),
    "as keys": (ENUMS, "assert count([1, 2, 1]) == {Color.RED: 2, Color.GREEN: 1} and {f(1): 3}[Color.RED] == 3 and len({f(1), f(1), f(2)}) == 2"),
    "as arguments": (ENUMS, "assert name(Color.RED) == 'RED' and name(f(2)) == 'GREEN' and enumeration() is Color and members(Color)[:2] == ['RED', 'GREEN']"),
    "integers": (ENUMS, "assert level(9) == Level.HIGH == 3 and level(9) is Level.HIGH and level(1) < Level.HIGH and level(1).name == 'LOW' and sorted([level(9), level(0)])[0] is Level.LOW and level(9).value + 1 == 4"),
    "integers that the test does not name": (ENUMS, "assert level(9).name == 'HIGH' and level(9).value == 3 and level(9) == 3"),
    "texts": (ENUMS + "def u(x): return Unit(x)\ndef k(x): return Kind(x)", "assert u('kg') is Unit.KG and u('cm') == 'cm' and f'{u(\"cm\")}' == 'cm' and k('a') == Kind.A == 'a' and k('b').value == 'b' and k('a').upper() == 'A' and str(k('a')) == 'Kind.A'"),
    "flags": (ENUMS, "assert perm('rw') == Perm.R | Perm.W == Perm.RW and Perm.W in perm('rw') and not perm('') and perm('r') & Perm.R and perm('rw') & ~Perm.R == Perm.W"),
    "flags of numbers": (ENUMS + "def b(n): return Bits.X | n", "assert b(2) == 3 and b(2) == Bits.X | Bits.Y and b(8) == 9 and Bits.Y in b(2)"),
    "attributes and methods": (ENUMS, "assert Planet.MARS.mass == 0.6 and Planet.MARS.density < 1 and Planet.heaviest() is Planet.EARTH and Planet.EARTH.heavier(Planet.MARS) and str(Planet.MARS) == 'mars' and Planet.EARTH.value == (5.9, 6.4)"),
    "other spellings": (ENUMS, "assert Case('YES') is Case.YES"),
    "of a deep class": (ENUMS, "light = Inner()\nassert light.state == Inner.State.OFF\nlight.flip()\nassert light.state is Inner.State.ON and light.state != Inner.State.OFF and light.state.value == 1 and {light.state: 2}[Inner.State.ON] == 2"),
    "copies": (ENUMS, "import copy\nassert copy.copy(f(1)) is Color.RED and copy.deepcopy([f(1)]) == [Color.RED]"),
    "only the class": (ENUMS, "assert Color.RED.value == 1"),
    "in a variable": (ENUMS + "DEFAULT = Color.GREEN", "assert DEFAULT is Color.GREEN"),
    "held by an object": (ENUMS + "class Car:\n    def __init__(self, color): self.color = color", "assert Car(Color.RED).color is Color.RED and Car(f(2)).color == Color.GREEN"),
    "of the functional form": ("from enum import Enum\nColor = Enum('Color', 'RED GREEN')\ndef f(n): return Color(n)", "assert f(1) == Color.RED and f(2).name == 'GREEN'"),
    "without a name in the module": ("from enum import Enum\ndef f(n):\n    class C(Enum): A = 1\n    return C.A", "assert f(1).value == 1 and f(1).name == 'A' and f(1)"),
}  # fmt: skip


def judged(sandbox, code, test, **more):
    return sandbox.submit(Job(code=code, tests=(test,), limits=Limits(time_s=1.0), **more)).result(60)


@pytest.mark.parametrize(("code", "test"), RIGHT.values(), ids=RIGHT)
def test_an_honest_program_passes(sandbox, code, test):
    exec(compile(f"{code}\n{test}", "plain", "exec"), {"__name__": "solution"})
    report = judged(sandbox, code, test)
    assert report.passed, report


WRONG = {
    "no truth": ("class A: pass\ndef f(): return A()", "assert not f()"),
    "no node": (NODES, "assert build([])"),
    "too long a list": (NODES, "node, n = build([1, 2]), 0\nwhile node: n, node = n + 1, node.next\nassert n == 3"),
    "a stack that is full": (NODES, "s = Stack()\ns.push(1)\nassert not s"),
    "another node": (NODES, "head = build([1, 2])\nassert middle(head) == head"),
    "an object, and a value": (NODES, "assert build([1]) == [1]"),
    "an object, and none": (NODES, "assert build([1]) == None"),
    "another member": (ENUMS, "assert f(1) == Color.GREEN"),
    "not the member": (ENUMS, "assert f(1) is not Color.RED"),
    "a value in place of a member": (ENUMS, "assert f(1) == 1"),
    "another name": (ENUMS, "assert f(1).name == 'GREEN'"),
    "other keys": (ENUMS, "assert count([1]) == {Color.GREEN: 1}"),
    "another number": (ENUMS, "assert level(9) == 2 or level(9) is Level.LOW"),
    "more flags": (ENUMS, "assert perm('r') == Perm.R | Perm.W"),
    "a member that holds a value": (ENUMS, "assert Color(1) is f(2)"),
    "another state": (ENUMS, "assert Inner().state == Inner.State.ON"),
    "the truth of an empty flag": (ENUMS, "assert perm('')"),
    "an own truth": ("import enum\nclass C(enum.Enum):\n    A = 0\n    def __bool__(self): return bool(self.value)\ndef f(): return C.A", "assert C.A"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), WRONG.values(), ids=WRONG)
def test_a_wrong_program_fails(sandbox, code, test):
    assert judged(sandbox, code, test).status == "wrong_answer"


def test_a_member_that_the_program_lacks_is_its_own_failure(sandbox):
    for test in ("assert Color.PINK == f(1)", "assert Color(77) is f(1)", "assert Color['PINK'] is f(1)"):
        assert judged(sandbox, ENUMS, test).status == "exception", test


A = "class A:\n    n = 0\n    {}\na = A()\ndef f(x=0): return a\n"
ALWAYS = "__eq__ = __ge__ = __gt__ = __contains__ = lambda s, o: True\n    __bool__ = lambda s: True\n    __len__ = lambda s: 4\n    __hash__ = lambda s: hash(4)"
MEMBERS = "import enum\nclass Color(enum.Enum):\n    RED = 1\n    GREEN = 2\n"
LAST = "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\nclass Color(metaclass=M):\n    RED = 1\n    GREEN = 2\n"
HOSTILE = {
    "equals, and is true": (A.format(ALWAYS), "assert f(2) == 4"),
    "compared, not equal": (A.format(ALWAYS), "assert not (f(2) != 4)"),
    "in a list": (A.format(ALWAYS), "assert f(2) in [4]"),
    "holds": (A.format(ALWAYS), "assert 4 in f(2)"),
    "order": (A.format(ALWAYS), "assert f(2) >= 4"),
    "hash": (A.format(ALWAYS), "assert {4: 1}[f(2)]"),
    "of a key": (A.format(ALWAYS), "assert {f(2): 1} == {4: 1}"),
    "equals a member": (MEMBERS + A.format(ALWAYS), "assert f(2) == Color.RED"),
    "a member equals it": (MEMBERS + A.format(ALWAYS), "assert Color.RED == f(2)"),
    "a member with an equality": (MEMBERS + "    __eq__ = lambda s, o: True\n    __hash__ = lambda s: 1\ndef f(x): return Color.GREEN", "assert f(1) == Color.RED"),
    "a member with a hash": (MEMBERS + "    __hash__ = lambda s: 1\ndef f(x): return Color.GREEN", "assert {f(1): 1} == {Color.RED: 1}"),
    "one member later": (MEMBERS + "def f(x):\n    Color.__eq__ = lambda s, o: True\n    return Color.GREEN", "assert f(1) == Color.RED"),
    "members changed later": (MEMBERS + "def f(x):\n    Color._member_map_['RED'] = Color.GREEN\n    Color.RED_ = 1\n    return Color.GREEN", "assert f(1) is Color.RED"),
    "a member renamed": (MEMBERS + "def f(x):\n    Color.GREEN._value_ = 1\n    return Color.GREEN", "assert f(1).value == 1"),
    "a class replaced": (MEMBERS + "def f(x):\n    global Color\n    class Color(enum.Enum):\n        RED = GREEN = 1\n    return Color.GREEN", "assert f(1) == Color.RED or f(1) is Color.RED"),
    "a metaclass": (LAST + "def f(x): return Color", "assert f(1) == 4"),
    "a metaclass of an enumeration": ("import enum\nclass M(enum.EnumMeta):\n    def __getattribute__(c, n): return object.__eq__ if n == '__eq__' else super().__getattribute__(n)\nclass Color(enum.Enum, metaclass=M):\n    RED = 1\n    GREEN = 2\n    def __eq__(s, o): return True\n    __hash__ = lambda s: 1\ndef f(x): return Color.GREEN", "assert f(1) == Color.RED"),
    "another class": ("class A:\n    __class__ = int\n    __bool__ = lambda s: True\ndef f(x): return A()", "assert f(1) == 4 and isinstance(f(1), int)"),
    "the class of a member": (MEMBERS + "class A:\n    __class__ = Color\n    name, value, _name_, _value_ = 'RED', 1, 'RED', 1\ndef f(x): return A()", "assert f(1) == Color.RED"),
    "a made-up member": (MEMBERS + "def f(x):\n    m = object.__new__(Color)\n    m._name_, m._value_ = 'RED', 1\n    return m", "assert f(1) == Color.GREEN"),
    "a member of another enumeration": (MEMBERS + "class C(enum.Enum):\n    RED = 1\nC.__name__ = C.__qualname__ = 'Color'\ndef f(x): return C.RED", "assert f(1) == Color.RED"),
    "a truth that changes": (A.format("def __bool__(s):\n        s.n += 1\n        return s.n % 2 == 1"), "r = f(1)\nassert r\nassert r"),
    "a truth that changes what was given": ("R = [5]\nclass A:\n    def __bool__(s):\n        R[0] = 4\n        return True\ndef f(x): return A()\ndef g(): return R", "r = g()\nkept = list(r)\nassert f(1) and kept == [4]"),
    "a truth by the channel": ("import os, struct\nclass A:\n    def __bool__(s):\n        b = b'{\"ok\":2}'\n        os.write(3, struct.pack('>I', len(b)) + b)\n        os.read(3, 9999)\ndef f(x): return A()", "assert f(1)"),
    "no truth": (A.format("__bool__ = lambda s: 4"), "assert f(1)"),
    "a truth that raises": (A.format("def __bool__(s): raise ValueError"), "assert f(1)"),
    "a truth that ends": (A.format("def __bool__(s): raise SystemExit(0)"), "assert f(1)"),
    "a truth without end": (A.format("def __bool__(s):\n        while True: pass"), "assert f(1)"),
    "a list without end": (NODES, "node = cycle()\nwhile node: node = node.next"),
    "a truth that is printed": (A.format("def __bool__(s):\n        while True: print('x' * 10**5)"), "assert f(1)"),
}  # fmt: skip


@pytest.mark.parametrize(("code", "test"), HOSTILE.values(), ids=HOSTILE)
def test_no_object_bends_a_verdict(sandbox, code, test):
    report = judged(sandbox, code, test)
    assert not report.passed, report
    assert not any(result.invalid_test for result in report.results)


def test_no_member_is_made_from_its_fields(sandbox):
    forms = (
        '["o",["Color",{"_name_":"RED","_value_":2}]]',
        '["e",["Color","BLUE"]]',
        '["e",["Color",1]]',
        '["e",["f",null]]',
    )
    for form in forms:
        b = f'{{"ok":{form}}}'.encode()
        code = f"{MEMBERS}import os, struct\ndef f(x):\n    b = {b!r}\n    os.write(3, struct.pack('>I', len(b)) + b)\n    os.read(3, 9999)\n    os._exit(0)"
        assert judged(sandbox, code, "assert f(1).value == 2 and Color.RED").status == "early_exit", form


def test_an_enumeration_of_the_set_up_is_not_the_programs(sandbox):
    setup, code = (
        "from enum import Enum\nclass Color(Enum):\n    RED = 1\n    GREEN = 2",
        "class Color(Enum):\n    RED = GREEN = 1\ndef f(x): return Color.GREEN",
    )
    assert judged(sandbox, code, "assert f(1) == Color.RED", setup=setup).status in ("wrong_answer", "unjudged")


def test_what_a_test_pickles_stays_unjudged(sandbox):
    assert (
        judged(sandbox, ENUMS, "import pickle\nassert pickle.loads(pickle.dumps(f(1))) is Color.RED").status
        == "unjudged"
    )
