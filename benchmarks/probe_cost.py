"""What probes add to a candidate: programs of a run judged on their public tests, without and with probes, in turns.

    python benchmarks/probe_cost.py rollouts/humaneval --programs 300 --rounds 3

Printed are wall milliseconds per program of one worker, medians over rounds with their range, and the ratio. Programs
that reach a time limit of one second, on a test or on a probe, are counted and left out: they cost what the limit is.
The verifier's own time, features and weights, stands beside them.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from mucode_agent.probes import MOST, probes
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import run
from mucode_agent.training.data import read_attempts
from mucode_agent.training.evidence import pools_of
from mucode_agent.types import ExecutionReport, Job
from mucode_agent.verifiers import load_verifier


def jobs_of(path: Path, count: int) -> list[tuple[Job, Job]]:
    """Distinct programs, each without and with probes."""
    found: list[tuple[Job, Job]] = []
    for entry in read_attempts([path]):
        problem = entry.problem.public()
        problem = problem.model_copy(update={"limits": problem.limits.model_copy(update={"time_s": 1.0})})
        codes = [attempt.candidate.code for attempt in entry.distinct()]
        inputs = probes(problem, codes)
        found += [(problem.job(code), problem.job(code, probes=inputs)) for code in codes]
    return found[:count]


def outcomes(report: ExecutionReport) -> set[str]:
    return {report.status, *(result.status for result in report.results), *report.behaviour}


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="A directory of `rollout` or `evaluate run`.")
    parser.add_argument("--programs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    pairs = jobs_of(arguments.run, arguments.programs)
    inputs = statistics.mean(len(probed.probes) for _, probed in pairs)
    wall: dict[str, list[float]] = {"tests alone": [], f"with probes ({inputs:.1f} of at most {MOST})": []}
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        first = run(sandbox, [probed for _, probed in pairs])
        ended = [pair for pair, report in zip(pairs, first, strict=True) if "timeout" not in outcomes(report)]
        endless, pairs = len(pairs) - len(ended), ended
        for _ in range(arguments.rounds):
            for place, name in enumerate(wall):
                started = time.perf_counter()
                run(sandbox, [pair[place] for pair in pairs])
                wall[name].append(1000 * (time.perf_counter() - started) / len(pairs))
    verifier = load_verifier("evidence")
    groups = [pool for pool in pools_of(read_attempts([arguments.run])) if len(pool.candidates) > 1]
    started = time.perf_counter()
    for group in groups:
        verifier.score(group.problem, group.candidates)
    scoring = 1000 * (time.perf_counter() - started) / sum(len(group.candidates) for group in groups)
    print(f"{endless} of {len(pairs) + endless} programs reach the time limit and are left out.")
    print(f"| {len(pairs)} programs | ms per program, wall, one worker |\n|---|---|")
    for name, values in wall.items():
        print(f"| {name} | {shown(values)} |")
    plain, probed = wall.values()
    ratios = [b / a for a, b in zip(plain, probed, strict=True)]
    print(f"| ratio | {shown(ratios)} |\n| scoring, per candidate | {scoring:.2f} |")


if __name__ == "__main__":
    main()
