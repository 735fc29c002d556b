"""Where a test and a program would meet if they ran in one process.

They do not, so a test that fails may have failed for that reason: it captured what the program printed elsewhere, or
seeded the random numbers of its own process. Such a failure says nothing about the program. It is excused by the
test's text and by what the program did, never by what its source names: names of interest are marked, and tell when
they are used.
"""

import ast
import re
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

_OF_A_MODULE = r"(?<![.\w])__(name|file|package|spec|loader|annotations)__\b(?! == .__main__)"
_PLACES = (
    (
        "output",
        r"redirect_std|capsys|capfd|sys\.(__)?std(out|err)|StringIO",
        r"(.*\.)?(print|pprint|stdout|stderr|write|writelines|input)|logging\..*|os\.write",
    ),
    ("input", r"\binput\b|sys\.stdin|StringIO", r"(.*\.)?(input|stdin)|fileinput\..*"),
    ("random numbers", r"\brandom\b|\bseed\b", r"(.*\.)?(random|secrets|uuid)(\..*)?|os\.urandom"),
    (
        "files",
        r"\bopen\(|\bos\.|pathlib|\bPath\b|tempfile|shutil",
        r"(.*\.)?open|(os|pathlib|tempfile|shutil|sqlite3)\..*",
    ),
    (
        "the environment",
        r"environ|putenv|chdir|sys\.(argv|path|modules)",
        r"(.*\.)?(environ|getenv|getcwd)|(sys|argparse)\..*",
    ),
    ("patched names", r"\bmock\b|\bpatch\b|monkeypatch|setattr\(|builtins\.|globals\(", ""),
    (
        "introspection",
        rf"{_OF_A_MODULE}|inspect|__code__|__closure__|__globals__|getsource|dataclasses|signature|__wrapped__",
        "",
    ),
    (
        "callbacks",
        r"\blambda\b|^\s+def |@|^def (?!check\b|test)",
        r"(.*\.)?(__code__|__closure__|__annotations__|getsource|signature)|inspect\..*",
    ),
    ("traces of exceptions", r"__traceback__|traceback|exc_info", ""),
    ("warnings or logs", r"warnings|logging|assertWarns|assertLogs|getLogger", ""),
    ("events", r"asyncio|\bawait\b|threading|concurrent|contextvars|weakref|\bgc\b|getrefcount|getsizeof", ""),
    ("global names", r"^\s*(global|nonlocal)\b", ""),
    ("clocks", r"\btime\.|datetime\.now|perf_counter|freeze", r"(.*\.)?(time|datetime)(\..*)?"),
)
"""A place, and by what it is found in a test's text and in the dotted names that a program uses."""


def _words(pattern: str) -> re.Pattern[str]:
    """Finds one of the names of a pattern in a source: quick, and without what stands where."""
    return re.compile(rf"\b({'|'.join(re.findall(r'[A-Za-z_]{2,}', pattern))})")


_PLACES_FOUND = [
    (what, re.compile(test, re.MULTILINE), re.compile(used))
    for what, test, used in sorted(_PLACES, key=lambda p: p[2] != "")
]
_PROCESSES = re.compile(
    r"os\.(system|popen|fork|forkpty|spawn\w*|exec\w*|posix_spawn\w*|pipe2?)|(subprocess|multiprocessing)\..*"
)
_REFUSED = re.compile(
    _PROCESSES.pattern
    + r"|(pty|socket|socketserver|urllib|http|asyncio)(\..*)?|concurrent\.futures\.(process\..*|ProcessPoolExecutor)"
)
_REFUSED_WORDS = re.compile(r"subprocess|multiprocessing|ProcessPool|\bpty\b|socket|urllib|\bhttp\b|asyncio|\bos\b")
_REFUSALS = re.compile(
    r"\w*(PermissionError|FileNotFoundError|OSError|BrokenProcessPool|BrokenPipeError|URLError|gaierror)\b"
)
_NAMES = {used.pattern: _words(used.pattern) for _, _, used in _PLACES_FOUND if used.pattern}
_MARK = "__mucode_mark__"


def excuses(tests: Iterable[str]) -> tuple[str, ...]:
    """Patterns of the names whose use by any program may excuse a failure of these tests."""
    texts = list(tests)
    return tuple(
        [names.pattern for _, found, names in _PLACES_FOUND if names.pattern and any(map(found.search, texts))]
    )


def interests(patterns: Iterable[str], program: str) -> str:
    """A pattern of what `excuses` found that this program may use; empty where there is none."""
    found = [pattern for pattern in patterns if _NAMES[pattern].search(program)]
    if "import" in program and _REFUSED_WORDS.search(program):
        found.append(_REFUSED.pattern)
    return "|".join(found)


def meeting(test: str, used: Iterable[str]) -> tuple[str, bool]:
    """The first place where both may be, as a reason; empty where there is none. `used` are the program's names.
    Second, whether the test's text alone says so, whatever the program uses: such places come first.
    """
    for what, in_test, names in _PLACES_FOUND:
        if (not names.pattern or any(map(names.fullmatch, used))) and in_test.search(test):
            why = f"the test and the program run apart and may meet in one process only: {what}"
            return why, not names.pattern
    return "", False


def refused(used: Iterable[str], status: str, error: str) -> str:
    """The reason where a failure comes from what the sandbox refuses to a program that asks for it, or empty."""
    pattern = _PROCESSES if status == "wrong_answer" else _REFUSED  # it may have swallowed the refusal
    if status == "wrong_answer" or (status == "exception" and _REFUSALS.match(error)):
        for name in used:
            if pattern.fullmatch(name):
                return f"the sandbox refuses processes and the network: {name[:80]}"
    return ""


def marked(code: str, filename: str, pattern: str, mark: Callable[[str], None]) -> tuple[CodeType, dict[str, Any]]:
    """The program, which calls `mark` with each name of the pattern when it is used; and a name that it needs.
    Raises what `compile` raises.
    """
    tree = ast.parse(code, filename)
    mine = _Marks(tree, re.compile(pattern)).visit(tree)
    compiled = compile(ast.fix_missing_locations(mine), filename, "exec", dont_inherit=True)

    def used(name: str, value: Any) -> Any:
        mark(name)
        return value

    return compiled, {_MARK: used}


class _Marks(ast.NodeTransformer):
    def __init__(self, tree: ast.AST, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._origins: dict[str, str] = {}
        """Dotted names of what the program has imported under another name."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                self._origins |= {alias.asname: alias.name for alias in node.names if alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module:
                self._origins |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._marked(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        marked = self._marked(node)
        return self.generic_visit(node) if marked is node else marked

    def _marked(self, node: ast.Name | ast.Attribute) -> ast.AST:
        name = self._dotted(node)
        if not isinstance(node.ctx, ast.Load) or not self._pattern.fullmatch(name):
            return node
        return ast.copy_location(ast.Call(ast.Name(_MARK, ast.Load()), [ast.Constant(name), node], []), node)

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return self._origins.get(node.id, node.id)
        return f"{self._dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""
