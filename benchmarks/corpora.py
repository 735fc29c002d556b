"""Right programs of public corpora, judged: how many pass, and why the others do not.

Run `python benchmarks/corpora.py [--quixbugs DIRECTORY] [--doctests DIRECTORY] [--every N]`. The first is a checkout of
jkoppel/QuixBugs, whose correct programs are judged by its own tests; the second one of a repository of algorithms
(TheAlgorithms/Python), whose functions and classes are judged by the examples in their docstrings. Only tests that
plain Python passes count; files that import third-party packages are left out.
"""

import argparse
import ast
import contextlib
import doctest
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import CodeTest, Job, Limits

LIMITS, PLAIN_S = Limits(time_s=20, output_kb=1024), 10
_TAKEN = {"pytest", "node", "load_testdata"}
_PYTEST = {
    "not pytest.run_slow": "True",
    "pytest.skip('Takes too long to pass!')": "return",
    "== pytest.approx(expected, abs=input_data[-1])": "- expected <= input_data[-1]",
}


def quixbugs(root: Path) -> Iterator[tuple[str, Job]]:
    node = (root / "python_testcases" / "node.py").read_text()
    for path in sorted((root / "correct_python_programs").glob("*.py")):
        test = root / "python_testcases" / f"test_{path.name}"
        if test.exists():
            rows = root / "json_testcases" / f"{path.stem}.json"
            cases = [json.loads(line) for line in rows.read_text().splitlines() if line] if rows.exists() else []
            source = _without_pytest(ast.parse(test.read_text()), cases)
            yield path.stem, Job(code=path.read_text(), tests=(CodeTest(code=source),), setup=node, limits=LIMITS)


def _without_pytest(tree: ast.Module, cases: list[object]) -> str:
    """The same test as plain statements: its cases in a loop, its functions called."""
    kept: list[str] = []
    for node in tree.body:
        text = ast.unparse(node)
        if isinstance(node, ast.If) or (isinstance(node, ast.Import | ast.ImportFrom) and _TAKEN & set(text.split())):
            continue
        if "load_json_testcases" in text:
            text = f"testdata = {cases!r}"
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            cased, node.decorator_list = bool(node.decorator_list), []
            call = f"for row in testdata: {node.name}(*row)" if cased else f"{node.name}()"
            text = f"{ast.unparse(node)}\n{call}"
        kept.append(text)
    text = "\n".join(kept)
    for old, new in _PYTEST.items():
        text = text.replace(old, new)
    return text


def doctests(root: Path) -> Iterator[tuple[str, Job]]:
    for path in sorted(root.rglob("*.py")):
        code = path.read_text(errors="replace")
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue
        if _third_party(tree):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                examples = list(_examples(node))
                if examples:
                    name = f"{path.relative_to(root)}:{node.name}"
                    yield name, Job(code=code, tests=(CodeTest(code="\n".join(examples)),), limits=LIMITS)


def _third_party(tree: ast.Module) -> bool:
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] not in sys.stdlib_module_names for name in names)


def _examples(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    """As statements, one docstring after another; what cannot be said as one ends its docstring."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(part)):
            try:
                found = doctest.DocTestParser().get_examples(text)
            except ValueError:
                continue
            for example in found:
                statement = _statement(example)
                if statement is None:
                    break
                yield statement


def _statement(example: doctest.Example) -> str | None:
    source, want = example.source.strip(), example.want.strip()
    if example.exc_msg is not None:
        name, _, message = example.exc_msg.strip().partition(": ")
        check = f" and str(error) == {message!r}" if message and "..." not in message else ""
        body = "\n    ".join(source.splitlines())
        same = f"assert type(error).__name__ == {name.rpartition('.')[2]!r}{check}"
        return f"try:\n    {body}\nexcept Exception as error:\n    {same}\nelse:\n    raise AssertionError"
    try:
        expression = ast.parse(source, mode="eval")
    except SyntaxError:
        return source if not want else None
    if not want or source.startswith("print("):
        return source if "print(" not in source else None
    if "..." in want or example.options:
        return None
    try:
        return f"assert ({ast.unparse(expression)}) == ({ast.literal_eval(want)!r})"
    except (ValueError, SyntaxError, MemoryError):
        return f"assert repr({ast.unparse(expression)}) == {want!r}"


def passes_plainly(job: Job) -> bool:
    """In a child of this process, before there are threads."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (PLAIN_S, PLAIN_S))
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            space = {"__name__": "solution"}
            exec("\n".join([job.setup, job.code, str(getattr(job.tests[0], "code", ""))]), space)
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quixbugs", type=Path)
    parser.add_argument("--doctests", type=Path)
    parser.add_argument("--every", type=int, default=1, help="judge one of so many functions")
    options = parser.parse_args()
    sources = {"QuixBugs": [*quixbugs(options.quixbugs)]} if options.quixbugs else {}
    if options.doctests:
        sources[options.doctests.name] = [*doctests(options.doctests)][:: options.every]
    plainly = {name: [row for row in rows if passes_plainly(row[1])] for name, rows in sources.items()}
    sandbox = LocalSandbox(workers=options.workers)
    for name, right in plainly.items():
        for judge in ("apart", "together"):
            reports = run(sandbox, [job.model_copy(update={"judge": judge}) for _, job in right])
            counts = dict(Counter(report.status for report in reports))
            print(
                f"{name}: {len(sources[name])} tests, plain Python passes {len(right)}; judged {judge}: {counts}",
                flush=True,
            )
            for (title, _), report in zip(right, reports, strict=True):
                if report.status != "passed":
                    first = next((result for result in report.results if result.status != "passed"), None)
                    why = f"{first.error} | {first.test}" if first else report.error
                    print(f"  {report.status}: {title}: {why[:200]!r}")
    sandbox.close()


if __name__ == "__main__":
    main()
