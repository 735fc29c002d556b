"""The second judge: runs a test in the program's own process, as most harnesses do, and says how it went.

For tests that cannot be judged apart: they capture what the program prints, patch its names, look inside its objects,
or are written for unittest or pytest. The program could find the test and forge the verdict: nothing here is trusted.
"""

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

_TEST = "<test>"
_ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)

CALLS_NOTHING = "the test calls nothing: name its functions test_…, or call them"

Verdict = dict[str, Any]
STATUSES = frozenset({"passed", "wrong_answer", "exception", "early_exit", "memory", "missing_entry_point", "unjudged"})
"""Those that a verdict can have."""


def run_test(
    source: str,
    space: dict[str, Any],
    entry_point: str | None,
    describe: Callable[[BaseException], tuple[str, list[str]]],
) -> Verdict:
    """The verdict of one test on the program whose namespace is `space`, where the test runs too.

    The test's statements run first; then `check(candidate)`, the functions `test_…` that it defines and does not call,
    and its test classes. `describe` gives an exception's text and the program's own frames in its traceback.
    """
    try:
        tree = ast.parse(source, _TEST)
        code = compile(tree, _TEST, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"status": "unjudged", "error": f"the test does not compile: {type(error).__name__}: {error}"}
    try:
        return _run(code, tree, space, entry_point)
    except BaseException as error:  # noqa: BLE001 - everything is a verdict
        text, frames = describe(error)
        status, said = _status(error, text, frames, entry_point)
        return {"status": status, "error": said, "traceback": frames, "test": _statement(error, tree, source)}


def failed_pytest(error: BaseException) -> bool:
    """What `pytest.fail` raises, and `pytest.raises` where nothing was raised; it is no Exception."""
    return {"Failed", "OutcomeException"} <= {kind.__name__ for kind in type(error).__mro__}


def _run(code: CodeType, tree: ast.Module, space: dict[str, Any], entry_point: str | None) -> Verdict:
    if names_unittest(tree):
        run_no_tests_twice()
    exec(code, space)  # noqa: S102 - trusted by definition
    ran = runs_something(tree)
    for run in _defined(tree, space, entry_point):
        run()
        ran = True
    if not ran:
        return {"status": "unjudged", "error": CALLS_NOTHING}
    return {"status": "passed"}


class Skipped(Exception):  # noqa: N818 - no verdict, and no error
    """The test cannot run here, and says why."""


def run_no_tests_twice() -> None:
    """A test's own `unittest.main()` does nothing: its classes are run behind it, and it would end the process."""
    import unittest  # here, as all that few tests need: each candidate pays for what the fork server holds

    unittest.main = unittest.TestProgram = _nothing  # type: ignore[assignment,misc]


def names_unittest(tree: ast.Module) -> bool:
    names = (alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    modules = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return any(name.partition(".")[0] == "unittest" for name in (*names, *modules))


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Those that run when the module is imported."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
            guard = isinstance(node, ast.If) and any(
                isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
            )
            if not guard:
                yield node


def runs_something(tree: ast.Module) -> bool:
    """A statement of the test that is no definition asserts or calls."""
    return any(
        isinstance(node, ast.Assert | ast.Call) for statement in _statements(tree) for node in ast.walk(statement)
    )


def _called(tree: ast.Module) -> set[str]:
    return {
        node.func.id
        for statement in _statements(tree)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def left_to_a_runner(tree: ast.Module) -> list[str]:
    """The functions `test_…` that a test defines and does not call, and its classes, in order."""
    called = _called(tree)
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.FunctionDef) and node.name.startswith("test") and node.name not in called)
    ]


def as_a_runner(defined: Any, run_cases: Callable[[Any], None] | None = None) -> Iterator[Callable[[], Any]]:
    """The calls that a runner makes of one of them; an exception of theirs is the test's.

    `run_cases` runs a class of unittest's; unless given, its test methods are called one by one.
    """
    if not isinstance(defined, type):
        yield _without_fixtures(defined)
        return
    cases = getattr(sys.modules.get("unittest"), "TestCase", None)
    if cases is not None and issubclass(defined, cases):
        yield functools.partial(run_cases or _debug_cases, defined)
    elif defined.__name__.startswith("Test"):
        for name in [name for name in vars(defined) if name.startswith("test")]:
            made = defined()
            getattr(made, "setup_method", _nothing)()
            yield _without_fixtures(getattr(made, name))


def _debug_cases(kind: Any) -> None:
    import unittest

    ran = 0
    kind.setUpClass()
    try:
        for case in unittest.defaultTestLoader.loadTestsFromTestCase(kind):
            try:
                case.debug()
            except unittest.SkipTest:
                continue
            ran += 1
    finally:
        kind.tearDownClass()
        kind.doClassCleanups()
    if not ran:
        raise Skipped(f"{kind.__name__} ran no test")


def _defined(tree: ast.Module, space: dict[str, Any], entry_point: str | None) -> Iterator[Callable[[], Any]]:
    """What the test defines and leaves to a runner."""
    called, left = _called(tree), left_to_a_runner(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.FunctionDef) and node.name == "check" and "check" not in called:
            arguments = [space[entry_point]] if entry_point and node.args.args else []
            yield functools.partial(space["check"], *arguments)
        elif node.name in left:
            yield from as_a_runner(space[node.name], _run_cases)


def _without_fixtures(function: Callable[..., Any]) -> Callable[[], Any]:
    import inspect

    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty and p.kind < 2]
    if needed:
        raise Skipped(f"{function.__name__} needs {', '.join(needed)}, which only pytest gives")
    return function


def _run_cases(kind: Any) -> None:
    import io
    import unittest

    result = unittest.TextTestRunner(stream=io.StringIO()).run(unittest.defaultTestLoader.loadTestsFromTestCase(kind))
    for case, text in (*result.failures, *result.errors):
        last = text.strip().splitlines()[-1]
        raise AssertionError(f"{case}: {last}")
    if result.testsRun == len(result.skipped):
        raise Skipped(f"{kind.__name__} ran no test")


def _status(error: BaseException, text: str, frames: list[str], entry_point: str | None) -> tuple[str, str]:
    if isinstance(error, AssertionError) or failed_pytest(error):
        return "wrong_answer", str(error)[:500]
    if isinstance(error, NameError) and error.name and error.name == entry_point:
        return "missing_entry_point", f"the program does not define {entry_point!r}, which the test uses"
    if isinstance(error, MemoryError):
        return "memory", text
    if isinstance(error, _ENDS) and frames:
        return "early_exit", f"the program raised {text}"
    skipped = type(error).__name__ in ("Skipped", "SkipTest")
    if isinstance(error, Exception) and not skipped and frames:
        return "exception", text
    if isinstance(error, Exception) and not skipped and not isinstance(error, ImportError):
        return "wrong_answer", text
    return "unjudged", text


def _statement(error: BaseException, tree: ast.Module, source: str) -> str:
    """The innermost statement of the test that the error passed through."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == _TEST else line
        trace = trace.tb_next
    around = [
        node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if not around:
        return ""
    inner = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno)
    return " ".join((ast.get_source_segment(source, inner) or "").split())[:400]
