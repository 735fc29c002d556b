"""How often the embedded models solve examples/problem.json: one sample against the default N and T.

python benchmarks/embedded_example.py [--model qwen0.5b --model smollm2] [--seeds 20] [--record seeds.jsonl]

With --record each answer is appended to a file, and the same command goes on where an earlier one ended. The weights
are loaded once. --at-once solves several seeds side by side, which a server answers faster; seconds then mean little.
"""

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pydantic import TypeAdapter

from mucode_agent import LocalSandbox, Solution, Solver, create_solver, load_model
from mucode_agent.files import Journal
from mucode_agent.models.embedded import DEFAULT_MODEL
from mucode_agent.types import Record

PROBLEM = Path(__file__).parent.parent / "examples" / "problem.json"
SETTINGS = ((1, 1), (5, 3))


class Answer(Record):
    """Of one seed."""

    model: str
    n: int
    max_turns: int
    seed: int
    solved: bool
    seconds: float
    candidates: int
    turns: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--at-once", type=int, default=1)
    given = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    journal = Journal(given.record or Path(scratch.name) / "seeds.jsonl", TypeAdapter(Answer))
    problem, sandbox = json.loads(PROBLEM.read_text()), LocalSandbox()
    for name in given.model or [DEFAULT_MODEL]:
        model = load_model(name)
        for n, turns in SETTINGS:
            there = {a.seed: a for a in journal.rows if (a.model, a.n, a.max_turns) == (name, n, turns)}
            solver = create_solver(model, sandbox=sandbox, n=n, max_turns=turns)

            def solve(seed: int, solver: Solver = solver, name: str = name, n: int = n, turns: int = turns) -> Answer:
                started = time.monotonic()
                found = Solution.model_validate(solver.invoke({"problem": problem}, context={"seed": seed})["solution"])
                return Answer(
                    model=name, n=n, max_turns=turns, seed=seed, solved=found.solved,
                    seconds=time.monotonic() - started, candidates=found.usage.candidates, turns=found.turns,
                )  # fmt: skip

            with ThreadPoolExecutor(given.at_once) as threads:
                for done in as_completed([threads.submit(solve, s) for s in set(range(given.seeds)) - there.keys()]):
                    there[done.result().seed] = done.result()
                    journal.append([done.result()])
            answers = [there[seed] for seed in range(given.seeds)]
            seconds, solved = [answer.seconds for answer in answers], sum(answer.solved for answer in answers)
            print(
                f"{problem['id']}, {name}, N={n} T={turns}: solved with {solved} of {given.seeds}"
                f" seeds · median {statistics.median(seconds):.1f} s ({min(seconds):.1f}-{max(seconds):.1f})"
                f" · mean {statistics.mean(a.candidates for a in answers):.1f} candidates,"
                f" {statistics.mean(a.turns for a in answers):.1f} turns",
                flush=True,
            )
    journal.close()
    sandbox.close()
    scratch.cleanup()


if __name__ == "__main__":
    main()
