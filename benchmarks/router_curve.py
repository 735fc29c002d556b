"""Accuracy against candidates drawn: a fixed N against the router, which stops drawing when it accepts.

    python -m mucode_agent rollout humaneval --model smollm2 --per-problem 1 --n 8 --turns 1 --out rollouts/pool
    python benchmarks/router_curve.py rollouts/pool --threshold 0.5 --threshold 0.8 --gain 0.02
    python benchmarks/router_curve.py rollouts/pool --threshold 0.5 --threshold 0.8 --without-tests

The first-turn candidates of a run are replayed in random orders, with the solver's own `select` and `decide`:
candidates of one prompt are exchangeable, so a replay is what the solver would have done. A router's wave is what it
draws before it asks again. Without a threshold it asks the public tests only; with one, P(correct) too, and problems
without public tests can then be accepted as well.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mucode_agent import Budget, Candidate
from mucode_agent.graphs.selection import decide, select
from mucode_agent.tools.sandbox import load_sandbox
from mucode_agent.training.data import read_attempts
from mucode_agent.training.evidence import with_behaviour
from mucode_agent.types import Problem, Record, Usage, Verifier
from mucode_agent.verifiers import load_verifier

Outcome = tuple[bool, int]
"""Whether the answer is right, and how many candidates were drawn for it."""


class Judged(Record):
    """A candidate with the verdict of all tests."""

    candidate: Candidate
    correct: bool


class Pool(Record):
    """The candidates of one problem."""

    problem: Problem
    drawn: tuple[Judged, ...]


def pools_of(run: Path) -> list[Pool]:
    """The independent first-turn candidates of a run, each once."""
    pools = []
    with contextlib.closing(load_sandbox("local")) as sandbox:
        data = with_behaviour([entry for entry in read_attempts([run]) if entry.attempts], sandbox)
    for entry in data:
        drawn = {(a.solve, a.candidate.sample.seed): a for a in entry.attempts if a.candidate.turn == 1}
        if drawn:
            judged = tuple(Judged(candidate=a.candidate, correct=a.correct) for _, a in sorted(drawn.items()))
            pools.append(Pool(problem=entry.problem.public(), drawn=judged))
    return pools


def scored(verifier: Verifier, pool: Pool, order: Sequence[Judged]) -> list[Candidate]:
    """The candidates drawn so far, scored beside each other as a wave has them."""
    seen = [judged.candidate for judged in order]
    scores = verifier.score(pool.problem, seen)
    return [
        c.model_copy(update={"score": score, "index": i}) for i, (c, score) in enumerate(zip(seen, scores, strict=True))
    ]


def fixed(pool: Pool, order: Sequence[Judged], *, n: int, verifier: Verifier) -> Outcome:
    """Best of n."""
    best = select(scored(verifier, pool, order[:n]), "tests+verifier")
    return order[best].correct, n


def routed(
    pool: Pool,
    order: Sequence[Judged],
    *,
    most: int,
    wave: int,
    threshold: float | None,
    verifier: Verifier,
    gain: float,
) -> Outcome:
    """Waves until the route accepts, gains too little, or has drawn `most`."""
    order, before = order[:most], None
    for count in range(wave, len(order) + wave, wave):
        seen = scored(verifier, pool, order[:count])
        best = select(seen, "tests+verifier")
        decision = decide(
            seen[best],
            has_tests=bool(pool.problem.public_tests),
            turn=1,
            max_turns=1,
            drawn=len(seen),
            n=len(order),
            usage=Usage(),
            budget=Budget(),
            accept_threshold=threshold,
            before=before,
            least_gain=gain,
        )
        if decision.action != "draw":
            return order[best].correct, len(seen)
        before = decision.probability
    raise AssertionError("the last wave ends the turn")


def replayed(pools: Sequence[Pool], policy: Callable[[Pool, Sequence[Judged]], Outcome], orders: int) -> dict[str, Any]:
    """Mean over problems and orders, with the standard error over problems."""
    chance = random.Random(0)
    accuracy, cost = [], []
    for pool in pools:
        outcomes = [policy(pool, chance.sample(pool.drawn, len(pool.drawn))) for _ in range(orders)]
        accuracy.append(statistics.mean(right for right, _ in outcomes))
        cost.append(statistics.mean(count for _, count in outcomes))
    error = statistics.stdev(accuracy) / len(accuracy) ** 0.5 if len(accuracy) > 1 else 0.0
    return {"accuracy": statistics.mean(accuracy), "error": error, "candidates": statistics.mean(cost)}


def curve(
    pools: Sequence[Pool], orders: int, thresholds: Sequence[float | None], gains: Sequence[float], verifier: Verifier
) -> Iterator[tuple[str, dict[str, Any]]]:
    most = min(len(pool.drawn) for pool in pools)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size < most]
    for size in [*sizes, most]:
        yield f"fixed N={size}", replayed(pools, partial(fixed, n=size, verifier=verifier), orders)
    for threshold in thresholds:
        asks = "tests" if threshold is None else f"P(correct) ≥ {threshold:g}"
        for gain in gains:
            least = f", gain ≥ {gain:g}" if gain else ""
            for size in sizes[:3]:
                policy = partial(routed, most=most, wave=size, threshold=threshold, verifier=verifier, gain=gain)
                yield f"router by {asks}{least}, waves of {size} up to {most}", replayed(pools, policy, orders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="A directory of `rollout` or `evaluate run`.")
    parser.add_argument("--verifier", default="evidence", help="As for `solve`.")
    parser.add_argument("--threshold", type=float, action="append", default=[], help="accept_threshold of a router.")
    parser.add_argument("--gain", type=float, action="append", default=[], help="least_gain of a router.")
    parser.add_argument("--without-tests", action="store_true", help="As if the problems had no public tests.")
    parser.add_argument("--orders", type=int, default=50, help="Random orders of each pool.")
    parser.add_argument("--json", action="store_true", help="One JSON object a line instead of a table.")
    arguments = parser.parse_args()

    verifier = load_verifier(arguments.verifier)
    if arguments.threshold and verifier.calibrated_on is None:
        sys.exit(f"{arguments.verifier} gives no probability, which a threshold needs; give a calibrated verifier")
    pools = [untested(pool) if arguments.without_tests else pool for pool in pools_of(arguments.run)]
    if not arguments.json:
        print("| policy | accuracy | candidates drawn |\n|---|---|---|")
    gains = [0.0, *arguments.gain]
    thresholds = [*([] if arguments.without_tests else [None]), *arguments.threshold]
    for name, figures in curve(pools, arguments.orders, thresholds, gains, verifier):
        if arguments.json:
            print(json.dumps({"policy": name, "problems": len(pools), **figures}))
        else:
            print(f"| {name} | {figures['accuracy']:.3f} ± {figures['error']:.3f} | {figures['candidates']:.1f} |")


def untested(pool: Pool) -> Pool:
    """Without public tests and their reports; what the programs did on the probes stays."""
    problem = pool.problem.model_copy(update={"public_tests": ()})
    bare = [judged.candidate.report for judged in pool.drawn]
    reports = [report and report.model_copy(update={"status": "unjudged", "results": ()}) for report in bare]
    drawn = tuple(
        judged.model_copy(update={"candidate": judged.candidate.model_copy(update={"report": report})})
        for judged, report in zip(pool.drawn, reports, strict=True)
    )
    return Pool(problem=problem, drawn=drawn)


if __name__ == "__main__":
    main()
