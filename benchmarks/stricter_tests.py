"""The answers of finished evaluations, judged again by another benchmark's tests of the same problems.

    python benchmarks/stricter_tests.py humaneval+:HumanEvalPlus-OriginFmt.jsonl.gz runs/he-base runs/he-mucode

HumanEval+ differs from HumanEval in its private tests alone, which no search sees, so a search on it would end with
the same answers. Problems are matched by id; an answer that these tests cannot judge is in no figure. Prints the share
of right answers by both suites, and every pair of runs on the problems of both.
"""

import argparse
import contextlib
import sys
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.comparison import read_results
from mucode_agent.evaluation.results import Comparison
from mucode_agent.evaluation.tables import comparison_table, for_markdown, percent
from mucode_agent.metrics import compare, proportion
from mucode_agent.runs.config import Benchmark
from mucode_agent.runs.reading import read_solves
from mucode_agent.tools.sandbox import load_sandbox, run
from mucode_agent.types import ProblemError, Sandbox


class Right(NamedTuple):
    """1.0 if an answer is right by the run's own tests, and by these; else 0.0."""

    own: float
    these: float


def judged_again(directory: Path, benchmark: Benchmark, sandbox: Sandbox) -> dict[str, dict[str, Right]]:
    """By search and problem, without unjudged answers. Raises ProblemError if the run has none of the problems."""
    own = read_results(directory).outcomes
    problems = {problem.id: problem for problem in benchmark.problems}
    solves = [solve for solve in read_solves(directory) if solve.problem_id in own and solve.problem_id in problems]
    if not solves:
        raise ProblemError(f"{directory} has no finished problem of {benchmark.name}; give a run of the same problems")
    reports = run(sandbox, [problems[solve.problem_id].judge_job(solve.solution.best.code) for solve in solves])
    found: dict[str, dict[str, Right]] = {}
    for solve, report in zip(solves, reports, strict=True):
        if report.status in ("infra", "unjudged"):
            print(f"{directory}, {solve.arm}, {solve.problem_id}: unjudged", file=sys.stderr)
            continue
        right = Right(own[solve.problem_id][solve.arm], float(report.passed))
        found.setdefault(solve.arm, {})[solve.problem_id] = right
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="NAME:FILE, as for `evaluate run`")
    parser.add_argument("runs", type=Path, nargs="+", help="directories of `evaluate run`")
    parser.add_argument("--preload", default="numpy", help="packages that the tests import, as for `evaluate run`")
    options = parser.parse_args()
    try:
        benchmark = load_benchmark(options.benchmark)
        with contextlib.closing(load_sandbox("local", preload=tuple(options.preload.split(",")))) as sandbox:
            by_run = {directory: judged_again(directory, benchmark, sandbox) for directory in options.runs}
    except ProblemError as error:
        parser.error(str(error))
    for directory, searches in by_run.items():
        for search, answers in searches.items():
            own, these = (percent(proportion(column)) for column in zip(*answers.values(), strict=True))
            print(f"{directory}, {search}, {len(answers)} problems: own tests {own}, these {these}")
    for (a, first), (b, second) in combinations(by_run.items(), 2):
        compared = []
        for search in (search for search in first if search in second):
            common = [problem for problem in first[search] if problem in second[search]]
            found = compare(*([of_run[search][problem].these for problem in common] for of_run in (first, second)))
            compared.append(Comparison(name=search, a=str(a), b=str(b), difference=found))
        print(for_markdown(comparison_table(compared, str(a), str(b))))


if __name__ == "__main__":
    main()
