"""Programs scored per second: batched with the shared prefix read once, batched, one by one, and by a vLLM server.

    python benchmarks/verifier_speed.py VERIFIER RUN [--server vllm:VERIFIER@http://127.0.0.1:8001] [--candidates 200]

Every way scores the same programs of a run's directory, problem by problem as the graph does, in turns. Printed are the
medians over rounds with their range, the ratio to a plain loop, and how far the logits and the order of programs
within a problem are from those of the plain loop.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from mucode_agent.training.data import read_attempts
from mucode_agent.types import Candidate, Problem, Sample
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.local import LocalVerifier

Work = list[tuple[Problem, list[str]]]
Way = Callable[[Problem, Sequence[str]], list[float]]


def work(run: Path, count: int) -> Work:
    found: Work = []
    left = count
    for entry in read_attempts([run]):
        codes = [attempt.candidate.code for attempt in entry.distinct()][:left]
        if len(codes) > 1:
            found.append((entry.problem.public(), codes))
            left -= len(codes)
        if left <= 1:
            break
    return found


def flips(way: Sequence[Sequence[float]], plain: Sequence[Sequence[float]]) -> float:
    """Share of pairs of one problem that stand in the other order."""
    pairs = [(a, b) for a, b in zip(way, plain, strict=True)]
    turned = [(a[i] - a[j]) * (b[i] - b[j]) < 0 for a, b in pairs for i, j in combinations(range(len(a)), 2)]
    return sum(turned) / len(turned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verifier")
    parser.add_argument("run", type=Path)
    parser.add_argument("--server", default=None)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default=None)
    arguments = parser.parse_args()

    scorer = LocalVerifier(arguments.verifier, dtype=arguments.dtype).scorer
    ways: dict[str, Way] = {
        "one by one": lambda problem, codes: [scorer.logits(problem, [code])[0] for code in codes],
        "batched": lambda problem, codes: scorer.logits(problem, codes, share_prefix=False),
        "batched, prefix read once": scorer.logits,
    }
    if arguments.server:

        def ask(problem: Problem, codes: Sequence[str]) -> list[float]:
            served = load_verifier(arguments.server)  # again, since it remembers what it has scored
            sample = Sample(text="", seed=0)
            programs = [Candidate(turn=1, index=i, sample=sample, code=code) for i, code in enumerate(codes)]
            return [score.logit for score in served.score(problem, programs)]

        ways["served"] = ask
    jobs = work(arguments.run, arguments.candidates)
    count = sum(len(codes) for _, codes in jobs)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    logits: dict[str, list[list[float]]] = {}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            started = time.monotonic()
            logits[name] = [way(problem, codes) for problem, codes in jobs]
            seconds[name].append(time.monotonic() - started)
    plain = statistics.median(seconds["one by one"])
    print(f"{count} programs of {len(jobs)} problems, {scorer.model.dtype}, {arguments.rounds} rounds\n")
    print("| way | programs/s | ratio | largest logit difference | pairs in another order |\n|---|---|---|---|---|")
    for name, taken in seconds.items():
        low, high = count / max(taken), count / min(taken)
        apart = max(
            abs(x - y)
            for a, b in zip(logits[name], logits["one by one"], strict=True)
            for x, y in zip(a, b, strict=True)
        )
        order = 100 * flips(logits[name], logits["one by one"])
        print(
            f"| {name} | {count / statistics.median(taken):.1f} ({low:.1f}–{high:.1f}) | "
            f"{plain / statistics.median(taken):.2f} | {apart:.3f} | {order:.1f} % |"
        )


if __name__ == "__main__":
    main()
