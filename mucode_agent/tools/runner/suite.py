"""Turns trusted test source into code that reports what failed: names, rewritten asserts, the statement's text.

The names that a test takes from the program come from the test's own source, never from what the program says: a
program cannot slip its own `abs`, `math` or prompt helper under a test.
"""

import ast
import builtins
import functools
import re
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple, TypeGuard

from .contained import contained
from .meeting import excuses
from .together import left_to_a_runner, names_unittest, runs_something

PROGRAM = "solution"
"""The module as which a test may import the program."""
COMPARE, TRUTH = "__mucode_compare__", "__mucode_truth__"
DROPPED, FRESH = "__mucode_dropped__", "__mucode_fresh__"
"""Calls whose result nobody sees, and calls whose arguments the test cannot look at afterwards."""
ASKED = "__mucode_asked__"
"""Calls that ask what a copy or a stand-in does not say: whether values are one object, and what an object can do."""
IDENTITY, CALLABLE = "__mucode_identity__", "__mucode_callable__"
"""`id` and `callable`, wherever they are named."""
_ASKED = frozenset(
    {
        *("is_", "is_not", "assertIs", "assertIsNot", "isinstance", "type"),
        *("assertIsInstance", "assertNotIsInstance"),
    }
)
_IDENTITY = frozenset({"id", "is_", "is_not", "assertIs", "assertIsNot"})
_CHANGERS = frozenset(
    {
        *(
            "add",
            "append",
            "appendleft",
            "clear",
            "discard",
            "extend",
            "extendleft",
            "insert",
            "pop",
            "popitem",
            "popleft",
        ),
        *("remove", "reverse", "rotate", "setattr", "setdefault", "sort", "update", "shuffle", "insort", "insort_left"),
        *("insort_right", "heapify", "heappop", "heappush", "heappushpop", "heapreplace"),
    }
)
_LIBRARY = {
    **dict.fromkeys(("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"), "collections"),
    "Decimal": "decimal",
    "Fraction": "fractions",
    "isclose": "math",
    "np": "numpy",
    "numpy": "numpy",
}
"""Names that tests take from an import in the program: they get the library's own, or the program would compare."""
_OF_NO_PROGRAM = frozenset({"__class__", "__file__", "__path__", "__builtins__", "__annotations__", "__cached__"})
"""Names that a module or method has without defining them."""
_OPERATORS = {
    "Eq": "==",
    "NotEq": "!=",
    "Lt": "<",
    "LtE": "<=",
    "Gt": ">",
    "GtE": ">=",
    "Is": "is",
    "IsNot": "is not",
    "In": "in",
    "NotIn": "not in",
}


class Assertion:
    """One assert of the source."""

    def __init__(self, text: str, wanted: frozenset[str], entry_point: str | None) -> None:
        self.text = text
        self.operator = ""
        self._wanted = wanted
        self._entry_point = entry_point

    def shown(self) -> str:
        """The statement as one line, with `candidate(2)` as the call of the entry point that it is."""
        text = " ".join(self.text.split())
        return re.sub(r"\bcandidate\(", f"{self._entry_point}(", text) if self._entry_point else text

    @functools.cached_property
    def swapped(self) -> bool:
        """The program's value stands on the right."""
        test = self._test()
        return isinstance(test, ast.Compare) and self._calls(test.comparators[0]) and not self._calls(test.left)

    @functools.cached_property
    def literal(self) -> bool:
        """The text alone says which call was made: no loop variables in it."""
        names = {part.id for part in ast.walk(self._test()) if isinstance(part, ast.Name)}
        return all(name in self._wanted or hasattr(builtins, name) for name in names)

    def _test(self) -> ast.expr:
        (statement,) = ast.parse(self.text).body
        assert isinstance(statement, ast.Assert)
        return statement.test

    def _calls(self, node: ast.AST) -> bool:
        return any(
            isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in self._wanted
            for part in ast.walk(node)
        )


class CompiledTest:
    """A test ready to run, or the reason why it cannot be."""

    def __init__(self, source: str, error: str = "") -> None:
        self.source = source
        self.error = error
        self.code: CodeType | None = None
        self.check = False
        """The source defines `check`, which is to be called."""
        self.check_arguments = 1
        self.left: list[str] = []
        """Functions and classes that the source leaves to a runner of tests."""
        self.unittest = False
        """It imports unittest."""
        self.runs = False
        """Something in it asserts or is called."""
        self.uses_program = False
        """It names something that the program is to define, or the program's module."""
        self.assertions: list[Assertion] = []
        self.named = frozenset[str]()
        """Names and attributes in the source."""
        self.changes = False
        """It may change values in place."""
        self.keeps = False
        """It gives names to values and may look at them later, or asks which object a value is."""
        self.in_place = False
        """No expectation is computed from an argument of the program, so that changing one cannot bend it."""


class Suite(NamedTuple):
    """The code tests of one job, compiled once, and the names that they take from the program and from the library."""

    tests: list[CompiledTest]
    setup: CodeType | None
    wanted: frozenset[str]
    modules: frozenset[str]
    library: dict[str, str]
    """Names that are the library's, with their modules."""
    error: str = ""
    contained: bool = False
    """It may share a judge with other suites."""
    excuses: tuple[str, ...] = ()
    """Patterns of what a program may use that excuses a failure."""


def compile_suite(setup: str, sources: list[str], entry_point: str | None) -> Suite:
    """Never raises: what does not compile is reported where it stands."""
    trees: list[ast.Module | None] = []
    errors: list[str] = []
    for source in sources:
        try:
            trees.append(ast.parse(source, "<test>"))
            errors.append("")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            trees.append(None)
            errors.append(f"the test does not compile: {type(error).__name__}: {error}")
    try:
        setup_tree = ast.parse(setup, "<setup>")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Suite([], None, frozenset(), frozenset(), {}, f"the set-up code does not compile: {error}")
    parsed = [setup_tree, *[tree for tree in trees if tree is not None]]
    imported = _from_own_module(parsed) if any(PROGRAM in source for source in (setup, *sources)) else set()
    nodes = [node for tree in parsed for node in ast.walk(tree)]
    wanted, modules, library = _names(nodes, entry_point)
    wanted |= imported
    shared = contained(nodes, modules) and not library  # before the asserts are rewritten
    helpers = [part for node in setup_tree.body for part in _ran(node)]
    tests = [
        CompiledTest(source, error=error) if tree is None else _compile(source, tree, wanted, entry_point, helpers)
        for source, tree, error in zip(sources, trees, errors, strict=True)
    ]
    code = compile(setup_tree, "<setup>", "exec", dont_inherit=True) if setup.strip() else None
    found = excuses((setup, *sources))
    return Suite(tests, code, wanted, modules, library, contained=shared, excuses=found)


def _from_own_module(trees: list[ast.Module]) -> set[str]:
    """Turns imports of the program's module, which has no file, into its names, which tests have anyway.

    Returns the names: the program's, even if Python has a function of that name. Where the module is used as an object
    (`getattr(solution, name)`), nothing changes, and the import fails.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    aliases = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    called = {alias.asname or alias.name for alias in aliases if alias.name == PROGRAM}
    read = {id(node.value) for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    if any(isinstance(node, ast.Name) and node.id in called and id(node) not in read for node in nodes):
        return set()
    rewrite = _OwnModule(called)
    for tree in trees:
        rewrite.visit(tree)
    return rewrite.names


class _OwnModule(ast.NodeTransformer):
    """Rewrites the imports and the attributes of the program's module, known by the names in `called`."""

    def __init__(self, called: set[str]) -> None:
        self.names: set[str] = set()
        self._called = called

    def visit_Import(self, node: ast.Import) -> Any:
        node.names = [alias for alias in node.names if alias.name != PROGRAM]
        return node if node.names else ast.copy_location(ast.Pass(), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.module != PROGRAM or node.level:
            return node
        self.names |= {alias.name for alias in node.names} - {"*"}
        lines: list[ast.stmt] = []
        for alias in node.names:
            value = ast.Name(alias.name, ast.Load())
            if alias.asname not in (None, alias.name):
                lines.append(ast.Assign([ast.Name(str(alias.asname), ast.Store())], value))
            elif alias.name != "*":
                lines.append(ast.Expr(value))  # fails if the program does not define it, as the import would
        return [ast.fix_missing_locations(ast.copy_location(line, node)) for line in lines or [ast.Pass()]]

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        if not (isinstance(node.value, ast.Name) and node.value.id in self._called):
            return node
        self.names.add(node.attr)
        return ast.copy_location(ast.Name(node.attr, ast.Load()), node)


def _ran(node: ast.AST) -> Iterator[ast.AST]:
    """Of the set-up code, what may touch other values than a new object's own."""
    if not (isinstance(node, ast.FunctionDef) and node.name == "__init__"):  # sets a new object's attributes
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _ran(child)


def _compile(
    source: str, tree: ast.Module, wanted: frozenset[str], entry_point: str | None, helpers: list[ast.AST]
) -> CompiledTest:
    test = CompiledTest(source)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            test.check = True
            test.check_arguments = len(node.args.args) + len(node.args.posonlyargs)
    test.left = left_to_a_runner(tree)
    test.unittest = names_unittest(tree)
    test.runs = test.check or runs_something(tree)
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    modules = {getattr(node, "module", None) for node in nodes} | {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    test.uses_program = bool(names & {*wanted, "candidate"} or modules & {PROGRAM, "__main__"})
    test.named = frozenset(names | {node.attr for node in nodes if isinstance(node, ast.Attribute)})
    test.changes = any(map(_changes, (*nodes, *helpers)))
    test.keeps = any(map(_keeps, nodes)) or any(map(_asks_identity, (*nodes, *helpers)))
    kinds = set(map(type, nodes))
    test.in_place = ast.Assign in kinds and not kinds & _DECIDES and _in_place(nodes)
    rewritten = _Rewrite(test, wanted | {"candidate"}, entry_point).visit(tree)
    try:
        test.code = compile(ast.fix_missing_locations(rewritten), "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        test.error = f"the test does not compile: {type(error).__name__}: {error}"
    return test


class _Rewrite(ast.NodeTransformer):
    """Asserts keep both sides; calls with arguments that the test cannot look at afterwards do not ask for changes."""

    def __init__(self, test: CompiledTest, wanted: frozenset[str], entry_point: str | None) -> None:
        self._assertions = test.assertions
        self._lines = test.source.encode().splitlines(keepends=True)
        self._wanted = wanted
        self._entry_point = entry_point

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        key = ast.Constant(len(self._assertions))
        assertion = Assertion(self._segment(node), self._wanted, self._entry_point)
        self._assertions.append(assertion)
        if node.msg is not None:
            node.msg = self.visit(node.msg)
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            assertion.operator = _OPERATORS[type(test.ops[0]).__name__]
            sides = [self.visit(test.left), self.visit(test.comparators[0])]
            node.test = ast.Call(ast.Name(COMPARE, ast.Load()), [key, ast.Constant(assertion.operator), *sides], [])
        else:
            node.test = ast.Call(ast.Name(TRUTH, ast.Load()), [key, self.visit(test)], [])
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        asks = len(sides) == 2 and isinstance(node.ops[0], ast.Is | ast.IsNot)
        if not asks or any(isinstance(side, ast.Constant) for side in sides):
            return node
        operator = ast.Constant(_OPERATORS[type(node.ops[0]).__name__])
        return ast.Call(ast.Name(COMPARE, ast.Load()), [ast.Constant(None), operator, *sides], [])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        hooks = {"id": IDENTITY, "callable": CALLABLE}
        if isinstance(node.ctx, ast.Load) and node.id in hooks and node.id not in self._wanted:
            return ast.Name(hooks[node.id], ast.Load())
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if isinstance(call, ast.Call) and not (isinstance(call.func, ast.Name) and call.func.id == "super"):
            if isinstance(call.func, ast.Attribute) and call.func.attr in _ASKED:
                return self.generic_visit(node)
            self.generic_visit(call)
            node.value = ast.Call(ast.Name(DROPPED, ast.Load()), [call.func, *call.args], call.keywords)
            return node
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        parts = [part for argument in given for part in ast.walk(argument)]
        names = {part.id for part in parts if isinstance(part, ast.Name)}
        repeats = any(isinstance(part, ast.Mult | ast.comprehension) for part in parts)
        of_program = isinstance(node.func, ast.Name) and node.func.id in self._wanted
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        self.generic_visit(node)
        if name in _ASKED and name not in self._wanted:
            return ast.Call(ast.Name(ASKED, ast.Load()), [node.func, *node.args], node.keywords)
        if not of_program or repeats or any(not hasattr(builtins, name) for name in names):
            return node
        return ast.Call(ast.Name(FRESH, ast.Load()), [node.func, *node.args], node.keywords)

    def _segment(self, node: ast.Assert) -> str:
        lines = self._lines[node.lineno - 1 : node.end_lineno]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"".join(lines).decode()


_DECIDES = {ast.If, ast.IfExp, ast.While, ast.Match, ast.Raise, ast.Try}
"""What may fail a test that is no assert."""


def _in_place(nodes: list[ast.AST]) -> bool:
    """Each assert compares with something made of constants, and of names that are given nothing else."""
    calls = [part for node in nodes if isinstance(node, ast.Call) for part in ast.walk(node) if part is not node.func]
    used = {part.id for part in calls if isinstance(part, ast.Name)}
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    bound = [node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)]
    read: list[ast.AST] = [node for node in nodes if isinstance(node, ast.Assert)]
    read += [node.value for node in assigned if isinstance(node.value, ast.BinOp | ast.UnaryOp | ast.Compare)]
    reading = {id(part) for node in read for part in ast.walk(node)}
    used |= {node.id for node in nodes if _loads(node) and id(node) not in reading}  # by which it gets another name
    constants = set[str]()

    def pure(node: ast.AST) -> bool:
        parts = list(ast.walk(node))
        names = {part.id for part in parts if isinstance(part, ast.Name)}
        return names <= constants and not any(isinstance(part, ast.Call) for part in parts)

    for node in assigned:
        name = ast.unparse(node.targets[0])
        if len(node.targets) == 1 and name not in used and bound.count(name) == 1 and pure(node.value):
            constants.add(name)
    tests = [node.test for node in nodes if isinstance(node, ast.Assert)]
    compared = [value for test in tests for value in (test.values if isinstance(test, ast.BoolOp) else [test])]
    return bool(tests) and all(
        isinstance(value, ast.Compare) and any(map(pure, (value.left, *value.comparators))) for value in compared
    )


def _loads(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _keeps(node: ast.AST) -> bool:
    """It gives a name to what a call returned."""
    value = node.iter if isinstance(node, ast.For | ast.comprehension) else getattr(node, "value", None)
    binds = isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr | ast.For | ast.comprehension)
    return binds and value is not None and any(isinstance(part, ast.Call) for part in ast.walk(value))


def _asks_identity(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        sides = (node.left, *node.comparators)
        asks = any(isinstance(operator, ast.Is | ast.IsNot) for operator in node.ops)
        return asks and sum(isinstance(side, ast.Constant) for side in sides) < len(node.ops)
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) in _IDENTITY


def _changes(node: ast.AST) -> bool:
    """It may change a value in place, for all that its form says."""
    if isinstance(node, ast.Subscript | ast.Attribute):
        return not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Call):
        return (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in _CHANGERS
    return isinstance(node, ast.AugAssign)


def _names(nodes: list[ast.AST], entry_point: str | None) -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """The names taken from the program, and, where the source does not import them, standard modules and the library's
    names with their modules.
    """
    loaded, bound, called, bases = set[str](), {"candidate"}, list[str](), set[str]()
    for node in nodes:
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            bases.add(node.value.id)
    free = loaded - bound
    modules = {name for name in free & bases if name in sys.stdlib_module_names and name not in called}
    library = {name: module for name, module in _LIBRARY.items() if name in free and name != entry_point}
    taken = free - modules - library.keys()
    wanted = {name for name in taken if name == "__doc__" or not hasattr(builtins, name)} - _OF_NO_PROGRAM
    if entry_point:
        wanted.add(entry_point)
    elif not wanted and called:
        wanted.add(called[-1])  # a program may be named like a builtin; walks end with the innermost call
    return frozenset(wanted), frozenset(modules - {entry_point}), {k: library[k] for k in library.keys() - wanted}
