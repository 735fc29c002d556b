"""How often the embedded models solve examples/problem.json: one sample against the default N and T.

python benchmarks/embedded_example.py [--model qwen0.5b] [--seeds 20]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from mucode_agent import LocalSandbox, Solution, create_solver, load_model
from mucode_agent.models.embedded import DEFAULT_MODEL

PROBLEM = Path(__file__).parent.parent / "examples" / "problem.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    given = parser.parse_args()
    problem, model, sandbox = json.loads(PROBLEM.read_text()), load_model(given.model), LocalSandbox()
    for n, turns in ((1, 1), (5, 3)):
        solutions, seconds = [], []
        for seed in range(given.seeds):
            started = time.monotonic()
            answer = create_solver(model, sandbox=sandbox, n=n, max_turns=turns, seed=seed).invoke({"problem": problem})
            seconds.append(time.monotonic() - started)
            solutions.append(Solution.model_validate(answer["solution"]))
        solved = sum(solution.solved for solution in solutions)
        print(
            f"{problem['id']}, {given.model}, N={n} T={turns}: solved with {solved} of {given.seeds} seeds"
            f" · median {statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f})"
            f" · mean {statistics.mean(s.usage.candidates for s in solutions):.1f} candidates,"
            f" {statistics.mean(s.turns for s in solutions):.1f} turns",
            flush=True,
        )
    sandbox.close()


if __name__ == "__main__":
    main()
