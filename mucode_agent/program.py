"""A program as a tree: the names that it binds and needs, programs joined, and one without its own tests."""

import ast
import builtins
import functools
import sys
from collections.abc import Collection, Iterator, Sequence

from mucode_agent.syntax import parse

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINITION = FUNCTION | ast.ClassDef


@functools.lru_cache(maxsize=64)
def parsed(code: str) -> ast.Module | None:
    """The tree of a text; None if it is no Python."""
    try:
        return parse(code)
    except SyntaxError:
        return None


# --- names ---------------------------------------------------------------------------------------------------------


def bound_names(tree: ast.Module) -> set[str]:
    """Names that the module binds: at its top level, and within its `if`, `try` and `with`."""
    return {name for node in _module_level(tree) for name in _bound_by(node)}


def _bound_by(node: ast.stmt) -> set[str]:
    if isinstance(node, _DEFINITION):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return set().union(*map(_set_names, targets))
    return _names_of_import(node)


def imported_names(tree: ast.Module) -> set[str]:
    """Names that the module binds by imports."""
    return {name for node in _module_level(tree) for name in _names_of_import(node)}


def owner(tree: ast.Module, name: str) -> str | None:
    """The name by which the module provides `name`: itself, or the last class with that method; else None."""
    if name in bound_names(tree):
        return name
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    having = [node.name for node in classes if any(isinstance(m, FUNCTION) and m.name == name for m in node.body)]
    return having[-1] if having else None


def definitions(tree: ast.Module, name: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The functions and classes of that name at the top level, else the methods."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    top = [node for node in tree.body if isinstance(node, _DEFINITION) and node.name == name]
    return top or [part for node in classes for part in node.body if isinstance(part, FUNCTION) and part.name == name]


def runs(tree: ast.Module) -> bool:
    """Whether running the module does more than define functions, classes and constants."""
    quiet = _DEFINITION | ast.Import | ast.ImportFrom
    return any(
        not isinstance(node, quiet) and any(isinstance(part, ast.Call) for part in ast.walk(node)) for node in tree.body
    )


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    nodes: list[ast.stmt] = list(tree.body)
    for node in nodes:  # grows
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            nodes += [child for handler in getattr(node, "handlers", ()) for child in handler.body]


def _free_names(tree: ast.AST) -> set[str]:
    """Names that the program reads but never sets, without builtins."""
    read, own = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                own.add(name)
            case ast.alias():
                own.add((node.asname or node.name).partition(".")[0])
    return {name for name in read - own if not hasattr(builtins, name)}


# --- programs put together -----------------------------------------------------------------------------------------


def with_helpers(code: str, others: Sequence[str], answers: Sequence[str] = ()) -> str:
    """`code` after what it needs, and what that needs: whole texts of `others`, single definitions of `answers`.

    Names that it imports from a module which is one of these texts are taken from there.
    """
    if (tree := parsed(code)) is None:
        return code
    texts = [*others, *(part for answer in answers for part in _statements(answer))]
    trees = [parsed(text) for text in texts]
    bound = [bound_names(tree) if tree else set() for tree in trees]
    code, missing = _without_sibling_imports(code, tree, set().union(*bound))
    missing |= _free_names(tree)
    pending, taken = [*reversed(range(len(others))), *reversed(range(len(others), len(texts)))], set()
    while (number := next((i for i in pending if bound[i] & missing), None)) is not None:
        taken.add(number)
        pending.remove(number)
        missing = (missing - bound[number]) | _free_names(trees[number] or ast.Module([], []))
    return _joined([*(texts[i] for i in sorted(taken, key=lambda i: (i < len(others), i))), code]) if taken else code


def _statements(code: str) -> list[str]:
    tree = parsed(code)
    lines = code.split("\n")
    return ["\n".join(lines[span.start - 1 : span.stop - 1]) for span in map(_lines_of, tree.body if tree else [])]


def _without_sibling_imports(code: str, tree: ast.Module, bound: set[str]) -> tuple[str, set[str]]:
    """`code` without its imports from other files of the reply, and the names that these gave."""
    found = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").partition(".")[0] not in sys.stdlib_module_names
        and all(alias.asname is None and alias.name in bound for alias in node.names)
    ]
    return _without(code, tree, found), {name for node in found for name in _names_of_import(node)}


def _joined(codes: Sequence[str]) -> str:
    """One program after the other, under the imports that must come first."""
    first: list[str] = []
    rest: list[str] = []
    for code, tree in ((code, parsed(code)) for code in codes):
        nodes = tree.body if tree else []
        future = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        first += map(ast.unparse, future)
        rest.append(_without(code, tree, future) if tree else code)
    return "\n\n".join(["\n".join(dict.fromkeys(first)), *rest] if first else rest)


# --- a program's own tests -----------------------------------------------------------------------------------------

_TEST_MODULES = frozenset({"unittest", "pytest", "doctest", "hypothesis", "nose"})
_SHOWING = frozenset({"print", "pprint", "display"})
_ENDING = frozenset({"exit", "quit"})
_GIVEN = frozenset({"stdin", "argv"})
_ASKING = frozenset({"input", "parse_args"})


def without_own_tests(code: str, entry_point: str | None) -> str:
    """`code` without the tests and uses that it makes of `entry_point` while it loads, and what only these import."""
    tree = parsed(code)
    if tree is None:
        return code
    dropped = set(_words(tree))
    if name := entry_point and owner(tree, entry_point):
        dropped |= set(_Uses(tree, name).statements)
        rest = {name for node in tree.body if node not in dropped for name in _read_names(node)}
        used = {name for node in dropped for name in _read_names(node)}
        imports = [(node, names) for node in tree.body if (names := _names_of_import(node)) and not names & rest]
        dropped |= {node for node, names in imports if _imports_tests(node) or names <= used}
    return _without(code, tree, dropped)


def _words(tree: ast.Module) -> list[ast.stmt]:
    """Words that the program never binds, such as `EOF`, `[DONE]`, `O(1)` or `Note: short`: they can only fail."""

    def is_wording(node: ast.stmt) -> bool:
        if isinstance(node, ast.AnnAssign):
            return node.value is None
        match node:
            case ast.Expr(ast.Name() | ast.Starred(ast.Name()) | ast.Call(ast.Name("O"))):
                return True
            case ast.Expr(ast.List(words)):
                return bool(words) and all(isinstance(word, ast.Name) for word in words)
        return False

    found = [node for node in tree.body if is_wording(node)]
    if not found or any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body):
        return []
    free = _free_names(tree)
    return [node for node in found if _read_names(node) & free]


class _Uses:
    """The statements of a module that only test or use its entry point: nothing that it needs comes from them."""

    def __init__(self, tree: ast.Module, entry_point: str) -> None:
        self._entry_point = entry_point
        self._reads: dict[str, set[str]] = {}
        """What each name of the module is made from."""
        variables: set[str] = set()
        for node in tree.body:
            names = {node.name} if isinstance(node, _DEFINITION) else _set_names(node)
            variables |= names if not isinstance(node, _DEFINITION) else set()
            for name in names:
                self._reads.setdefault(name, set()).update(_made_from(node) - {name})
        self._needed = self._reached({entry_point}) | {entry_point}
        self._state = (self._needed & variables) - {entry_point}
        self._frameworks = {name for node in tree.body if _imports_tests(node) for name in _names_of_import(node)}
        self._asserting = {
            node.name
            for node in tree.body
            if isinstance(node, FUNCTION) and any(isinstance(part, ast.Assert) for part in ast.walk(node))
        } - self._needed
        definitions = [node for node in tree.body if isinstance(node, _DEFINITION)]
        self._gone = {node.name for node in definitions if self._is_test(node.name)}
        self.statements = [node for node in tree.body if self._is_use(node)]

    def _is_test(self, name: str) -> bool:
        reached = self._reached({name}) | {name}
        if name in self._needed:
            return False
        tests = bool(reached & self._asserting) or name.lower().startswith("test")
        return bool(reached & self._frameworks) or (self._entry_point in reached and tests)

    def _is_use(self, node: ast.stmt) -> bool:
        if isinstance(node, _DEFINITION):
            return node.name in self._gone
        if isinstance(node, ast.Assert):
            return True
        reads, sets = _read_names(node), _set_names(node)
        callee = _callee(node)
        if isinstance(node, ast.Import | ast.ImportFrom) or sets & self._needed:
            return False
        if reads & self._state and callee not in _SHOWING:
            return False
        if isinstance(node, ast.Assign | ast.AugAssign) and not sets and reads & self._needed:
            return False  # of an attribute or an item
        uses = (reads | self._reached(reads)) & (self._gone | self._frameworks | {self._entry_point})
        if uses or callee in _ENDING or _reads_input(node):
            self._gone |= sets
            return True
        return False

    def _reached(self, names: set[str]) -> set[str]:
        """Names that `names` are made from, through the module's own."""
        reached: set[str] = set()
        pending = set(names)
        while pending:
            pending = set().union(*(self._reads.get(name, set()) for name in pending)) - reached
            reached |= pending
        return reached


def _made_from(node: ast.stmt) -> set[str]:
    """Names that a statement takes from its module; of a definition, those that it does not set itself."""
    if not isinstance(node, _DEFINITION):
        return _read_names(node)
    shared = {name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}
    return _free_names(node) | shared


def _callee(node: ast.stmt) -> str:
    """The name that a statement calls: `exit` of `sys.exit(1)`."""
    function = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _reads_input(node: ast.stmt) -> bool:
    """It takes something from whoever starts the program: standard input, or the command line."""
    return any(
        (isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in _ASKING)
        or (isinstance(part, ast.Attribute) and part.attr in _ASKING | _GIVEN)
        for part in ast.walk(node)
    )


def _set_names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _read_names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def _imports_tests(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] in _TEST_MODULES for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _TEST_MODULES


def _names_of_import(node: ast.stmt) -> set[str]:
    names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
    return {(alias.asname or alias.name).partition(".")[0] for alias in names}


def _without(code: str, tree: ast.Module, dropped: Collection[ast.stmt]) -> str:
    """`code` without some of its statements; one that shares a line with others becomes `pass`."""
    if not dropped:
        return code
    others = {line for node in tree.body if node not in dropped for line in _lines_of(node)}
    lines = [line.encode() for line in code.split("\n")]
    gone: set[int] = set()
    for node in sorted(dropped, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if others.isdisjoint(_lines_of(node)):
            gone |= set(_lines_of(node))
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        lines[first : last + 1] = [
            lines[first][: node.col_offset] + b"pass" + lines[last][node.end_col_offset :],
            *([b""] * (last - first)),
        ]
    return "\n".join(line.decode() for number, line in enumerate(lines, 1) if number not in gone).rstrip()


def _lines_of(node: ast.stmt) -> range:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return range(min([node.lineno, *(part.lineno for part in decorators)]), (node.end_lineno or node.lineno) + 1)
