"""Verdicts beside plain Python's: references as they are, and each with one constant, comparison or return changed.

Run `python benchmarks/verdicts.py [--mbpp DIRECTORY] [--problems FILE.jsonl.gz]`: HumanEval, MBPP's rows and problems
of our own form. Plain Python is one process that runs the set-up, the program and then its tests.
"""

import argparse
import ast
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sandbox import problems

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.types import Job, Limits

_OTHER = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.LtE: ast.Lt, ast.GtE: ast.Gt, ast.In: ast.NotIn}
_PLACES = (2, 4, 7, 11, 1)
LIMITS, PLAIN_S = Limits(time_s=10), 20


class Change(ast.NodeTransformer):
    """Changes what stands at one place of those that can be changed."""

    def __init__(self, place: int) -> None:
        self._left = place

    def _here(self) -> bool:
        self._left -= 1
        return self._left == 0

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(node.value + 1) if type(node.value) is int and self._here() else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        return ast.Return(ast.Constant(None)) if self._here() else node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = _OTHER.get(type(node.ops[0]))
        if self._here() and other is not None:
            node.ops[0] = other()
        return node


def changed(code: str) -> str | None:
    before = ast.unparse(ast.parse(code))
    made = (ast.unparse(ast.fix_missing_locations(Change(place).visit(ast.parse(code)))) for place in _PLACES)
    return next((text for text in made if text != before), None)


def humaneval() -> Iterator[Job]:
    for row in problems():
        code = row["prompt"] + row["canonical_solution"]
        yield Job(code=code, tests=(row["test"],), entry_point=row["entry_point"], limits=LIMITS)


def mbpp(directory: Path) -> Iterator[Job]:
    for line in (line for path in sorted(directory.glob("mbpp*.jsonl")) for line in path.read_text().splitlines()):
        row = json.loads(line)
        yield Job(code=row["code"], tests=row["test_list"], setup=row.get("test_setup_code") or "", limits=LIMITS)


def own(path: Path) -> Iterator[Job]:
    with gzip.open(path, "rt") as file:
        for row in map(json.loads, file):
            tests = (*row["public_tests"], *row["private_tests"])
            entry_point, setup = row["entry_point"], row["setup"]
            yield Job(code=row["reference"], tests=tests, entry_point=entry_point, setup=setup, limits=LIMITS)


def passes_plainly(job: Job) -> bool:
    check = f"check({job.entry_point})" if any("def check(" in str(test) for test in job.tests) else ""
    source = "\n".join([job.setup, job.code, *[str(getattr(test, "code", test)) for test in job.tests], check])
    try:
        return (
            subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, timeout=PLAIN_S).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mbpp", type=Path)
    parser.add_argument("--problems", type=Path)
    options = parser.parse_args()
    sources = {"HumanEval": [*humaneval()]}
    if options.mbpp:
        sources["MBPP"] = [*mbpp(options.mbpp)]
    if options.problems:
        sources[options.problems.name] = [*own(options.problems)]
    sandbox = LocalSandbox(workers=options.workers)
    for name, jobs in sources.items():
        print(f"{name}, references: {dict(Counter(report.status for report in run(sandbox, jobs)))}")
        other = [job.model_copy(update={"code": text}) for job in jobs if (text := changed(job.code)) is not None]
        reports = run(sandbox, [job.model_copy(update={"limits": Limits(time_s=2)}) for job in other])
        plainly = ["passes" if passes_plainly(job) else "fails" for job in other]
        pairs = Counter(zip(plainly, (report.status for report in reports), strict=True))
        print(f"{name}, changed: " + ", ".join(f"{plain} plainly, {here}: {n}" for (plain, here), n in pairs.items()))
    sandbox.close()


if __name__ == "__main__":
    main()
