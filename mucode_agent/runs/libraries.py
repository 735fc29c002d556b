"""The packages that a benchmark's tests import; without them a suite can judge nothing."""

import ast
from collections import Counter
from collections.abc import Iterable, Sequence

from mucode_agent.problems import top_level_imports
from mucode_agent.syntax import parse
from mucode_agent.tools.runner.suite import PROGRAM
from mucode_agent.tools.sandbox import is_installed
from mucode_agent.types import CodeTest, Problem, ProblemError

_USED_WITHOUT_IMPORT = {"np": "numpy", "numpy": "numpy"}
"""Library names that the sandbox gives to tests which do not import them."""


def preloads(problems: Iterable[Problem], given: Sequence[str] = (), sandbox: str = "local") -> tuple[str, ...]:
    """`given` and the installed packages that tests and set-ups import, for the sandbox named `sandbox`.

    Nothing is added for other machines, which have their own packages. Raises ProblemError naming a package that is not
    installed here, before anything is drawn or judged.
    """
    if sandbox != "local":
        return tuple(given)
    wanted = Counter(name for problem in problems for name in libraries(problem))
    if missing := [name for name in wanted if not is_installed(name)]:
        name = missing[0]
        raise ProblemError(
            f"the tests of {wanted[name]} problems import {name}, which is not installed here, so no answer to them "
            f"could be judged: install {', '.join(missing)} beside mucode_agent"
        )
    return tuple(dict.fromkeys([*given, *wanted]))


def libraries(problem: Problem) -> set[str]:
    """Top-level packages outside the standard library that the problem's tests and set-up import.

    The module `solution` is the program itself.
    """
    tests = [test.code for test in (*problem.public_tests, *problem.private_tests) if isinstance(test, CodeTest)]
    found: set[str] = set()
    for source in [problem.setup, *tests]:
        if "import" in source or "np." in source or "numpy." in source:
            tree = parse(source)
            bound = {
                part.id for part in ast.walk(tree) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
            used = {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)} - bound
            found |= top_level_imports(tree) | {
                _USED_WITHOUT_IMPORT[name] for name in used & _USED_WITHOUT_IMPORT.keys()
            }
    return found - {PROGRAM}
