"""Accuracy against candidates drawn: a fixed N against the router, which stops drawing when it accepts.

    python -m mucode_agent evaluate run humaneval --model smollm2 --n 32 --turns 1 --no-greedy --output runs/pool
    python benchmarks/router_curve.py runs/pool --verifier DIRECTORY --threshold 0.5 --threshold 0.8

The first-turn candidates of a run are replayed in random orders, with the solver's own `select` and `decide`:
candidates of one prompt are exchangeable, so a replay is what the solver would have done. A router's wave is what it
draws before it asks again. Without a threshold it asks the public tests only; with one, P(correct) too, and problems
without public tests can then be accepted as well.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mucode_agent import Budget, Candidate, NoVerifier
from mucode_agent.graphs.selection import decide, select
from mucode_agent.training.data import read_attempts
from mucode_agent.types import Record, Usage, Verifier
from mucode_agent.verifiers import load_verifier

Outcome = tuple[bool, int]
"""Whether the answer is right, and how many candidates were drawn for it."""


class Judged(Record):
    """A candidate with the verdict of all tests."""

    candidate: Candidate
    correct: bool


class Pool(Record):
    """The candidates of one problem."""

    problem_id: str
    has_tests: bool
    drawn: tuple[Judged, ...]


def pools_of(run: Path, verifier: Verifier) -> list[Pool]:
    """The independent first-turn candidates of a run, each once, scored by `verifier`."""
    pools = []
    for entry in read_attempts([run]):
        drawn = {a.candidate.sample.seed: a for a in reversed(entry.attempts) if a.candidate.turn == 1}
        if drawn:
            codes = list(dict.fromkeys(attempt.candidate.code for attempt in drawn.values()))
            scores = dict(zip(codes, verifier.score(entry.problem.public(), codes), strict=True))
            judged = tuple(
                Judged(
                    candidate=drawn[seed].candidate.model_copy(
                        update={"score": scores[drawn[seed].candidate.code], "agreement": None}
                    ),
                    correct=drawn[seed].correct,
                )
                for seed in sorted(drawn)
            )
            pools.append(Pool(problem_id=entry.problem.id, has_tests=bool(entry.problem.public_tests), drawn=judged))
    return pools


def fixed(_: Pool, order: Sequence[Judged], *, n: int) -> Outcome:
    """Best of n."""
    best = select([judged.candidate for judged in order[:n]], "tests+verifier")
    return order[best].correct, n


def routed(pool: Pool, order: Sequence[Judged], *, most: int, wave: int, threshold: float | None) -> Outcome:
    """Waves until the route accepts, or `most` are drawn."""
    order = order[:most]
    for count in range(wave, len(order) + wave, wave):
        seen = [judged.candidate for judged in order[:count]]
        best = select(seen, "tests+verifier")
        decision = decide(
            seen[best],
            has_tests=pool.has_tests,
            turn=1,
            max_turns=1,
            drawn=len(seen),
            n=len(order),
            usage=Usage(),
            budget=Budget(),
            accept_threshold=threshold,
        )
        if decision.action != "draw":
            return order[best].correct, len(seen)
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
    pools: Sequence[Pool], orders: int, thresholds: Sequence[float | None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    most = min(len(pool.drawn) for pool in pools)
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size < most]
    for size in [*sizes, most]:
        yield f"fixed N={size}", replayed(pools, partial(fixed, n=size), orders)
    for threshold in thresholds:
        asks = "tests" if threshold is None else f"tests and P(correct) ≥ {threshold:g}"
        for size in sizes:
            yield (
                f"router by {asks}, waves of {size} up to {most}",
                replayed(pools, partial(routed, most=most, wave=size, threshold=threshold), orders),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="A directory of `evaluate run`.")
    parser.add_argument("--verifier", default="none", help="As for `solve`.")
    parser.add_argument("--threshold", type=float, action="append", default=[], help="accept_threshold of a router.")
    parser.add_argument("--orders", type=int, default=200, help="Random orders of each pool.")
    parser.add_argument("--json", action="store_true", help="One JSON object a line instead of a table.")
    arguments = parser.parse_args()

    verifier = NoVerifier() if arguments.verifier == "none" else load_verifier(arguments.verifier)
    pools = pools_of(arguments.run, verifier)
    if arguments.threshold and any(
        (score := one.candidate.score) is None or score.probability is None for pool in pools for one in pool.drawn
    ):
        sys.exit(f"{arguments.verifier} gives no probability, which a threshold needs; give a calibrated verifier")
    if not arguments.json:
        print("| policy | accuracy | candidates drawn |\n|---|---|---|")
    for name, figures in curve(pools, arguments.orders, [None, *arguments.threshold]):
        if arguments.json:
            print(json.dumps({"policy": name, "problems": len(pools), **figures}))
        else:
            print(f"| {name} | {figures['accuracy']:.3f} ± {figures['error']:.3f} | {figures['candidates']:.1f} |")


if __name__ == "__main__":
    main()
