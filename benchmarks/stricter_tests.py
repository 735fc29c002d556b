"""The answers of finished evaluations, judged again by another benchmark's tests of the same problems.

    python benchmarks/stricter_tests.py humaneval+:HumanEvalPlus-OriginFmt.jsonl.gz runs/he-base runs/he-mucode

HumanEval+ differs from HumanEval in its private tests alone, which no search sees, so a search on it would end with
the same answers. Problems are matched by id. Prints the share of right answers by both suites, and the difference of
every pair of runs on the problems of both.
"""

import argparse
import contextlib
from itertools import combinations
from pathlib import Path

from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.evaluation.comparison import read_results
from mucode_agent.metrics import Difference, Estimate, compare, proportion
from mucode_agent.runs.config import Benchmark
from mucode_agent.runs.reading import read_solves
from mucode_agent.tools.sandbox import load_sandbox, run
from mucode_agent.types import Sandbox


def judged_again(directory: Path, benchmark: Benchmark, sandbox: Sandbox) -> dict[str, dict[str, tuple[float, float]]]:
    """By search and problem: 1.0 if the answer is right by the run's own tests, and by the benchmark's; else 0.0."""
    own = read_results(directory).outcomes
    problems = {problem.id: problem for problem in benchmark.problems}
    solves = [solve for solve in read_solves(directory) if solve.problem_id in own and solve.problem_id in problems]
    reports = run(sandbox, [problems[solve.problem_id].judge_job(solve.solution.best.code) for solve in solves])
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for solve, report in zip(solves, reports, strict=True):
        right = own[solve.problem_id][solve.arm], float(report.passed)
        found.setdefault(solve.arm, {})[solve.problem_id] = right
    return found


def percent(found: Estimate | Difference, sign: str = "") -> str:
    return f"{100 * found.value:{sign}.1f} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="NAME:FILE, as for `evaluate run`")
    parser.add_argument("runs", type=Path, nargs="+", help="directories of `evaluate run`")
    parser.add_argument("--preload", default="numpy", help="packages that the tests import, as for `evaluate run`")
    options = parser.parse_args()
    benchmark = load_benchmark(options.benchmark)
    with contextlib.closing(load_sandbox("local", preload=tuple(options.preload.split(",")))) as sandbox:
        by_run = {directory: judged_again(directory, benchmark, sandbox) for directory in options.runs}
    for directory, searches in by_run.items():
        for search, answers in searches.items():
            own, again = (percent(proportion([right[i] for right in answers.values()])) for i in (0, 1))
            print(f"{directory}, {search}, {len(answers)} problems: own tests {own}, these {again}")
    for (a, first), (b, second) in combinations(by_run.items(), 2):
        for search in first.keys() & second.keys():
            common = [problem for problem in first[search] if problem in second[search]]
            found = compare(*([run_[search][problem][1] for problem in common] for run_ in (first, second)))
            print(f"{b} - {a}, {search}, {len(common)} problems: {percent(found, '+')}, p {found.p_value:.2g}")


if __name__ == "__main__":
    main()
