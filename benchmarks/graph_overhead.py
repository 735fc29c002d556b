"""Wall time that the graph adds to a turn: an instant model, a sandbox that runs nothing, against a plain Python loop.

The loop makes the same calls on the same records: render, sample, extract, run, score, select and decide. So the figure
is what LangGraph and our state, events and checkpoints cost.

    python benchmarks/graph_overhead.py
"""

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from mucode_agent.extraction import extract_code
from mucode_agent.graphs.selection import best_over_turns, decide, normal_form, select
from mucode_agent.graphs.solver import SolverInput, create_solver
from mucode_agent.models.sampling import sample
from mucode_agent.models.scripted import ScriptedModel
from mucode_agent.prompts import render
from mucode_agent.types import (
    Budget,
    Candidate,
    CodeTest,
    ExecutionReport,
    Job,
    Problem,
    Solution,
    TestResult,
    Turn,
    Usage,
)
from mucode_agent.verifiers import NoVerifier

PROBLEM = Problem(
    id="overhead",
    prompt="Return the number after x.",
    entry_point="after",
    public_tests=tuple(CodeTest(code=f"assert after({i}) == {i + 1}") for i in range(3)),
)
FRESH = itertools.count()
FAILED = ExecutionReport(status="wrong_answer", results=(TestResult(status="wrong_answer", test="assert f"),) * 3)


def instant_model() -> ScriptedModel:
    """Answers n wrong programs at once, and never the same one twice: caches help nobody."""
    return ScriptedModel(replies=lambda *_: f"```python\ndef after(x):\n    return x + {next(FRESH)}\n```")


class NullSandbox:
    """Fails every program without running it."""

    isolation = "none"

    def submit(self, job: Job) -> Future[ExecutionReport]:
        future: Future[ExecutionReport] = Future()
        future.set_result(FAILED)
        return future

    def close(self) -> None:
        pass


def plain_loop(model: ScriptedModel, n: int, max_turns: int) -> Solution:
    """What the graph does, as a function."""
    sandbox, verifier, usage = NullSandbox(), NoVerifier(), Usage()
    turns: list[Turn] = []
    while True:
        samples = sample(model, render(PROBLEM, turns), n=n, seed=len(turns) * n, temperature=0.7, max_tokens=1024)
        codes = [extract_code(reply.text, PROBLEM.entry_point) for reply in samples]
        forms = [normal_form(code) for code in codes]
        futures = {form: sandbox.submit(PROBLEM.job(code)) for form, code in zip(forms, codes, strict=True)}
        drawn = [
            Candidate(
                turn=len(turns) + 1,
                index=i,
                sample=samples[i],
                code=codes[i],
                report=futures[form].result(),
            )
            for i, form in enumerate(forms)
        ]
        scores = verifier.score(PROBLEM, drawn)
        candidates = [c.model_copy(update={"score": score}) for c, score in zip(drawn, scores, strict=True)]
        usage = usage.plus(seconds=0.0, samples=samples)
        best = candidates[select(candidates, "tests+verifier")]
        decision = decide(
            best,
            has_tests=True,
            turn=len(turns) + 1,
            max_turns=max_turns,
            drawn=n,
            n=n,
            usage=usage,
            budget=Budget(),
        )
        if decision.stop_reason is not None:
            return Solution(
                problem_id=PROBLEM.id,
                solved=decision.action == "accept",
                best=best_over_turns([*(turn.best for turn in turns), best], "tests+verifier"),
                stop_reason=decision.stop_reason,
                turns=len(turns) + 1,
                usage=usage,
            )
        turns.append(Turn(best=best, candidates=n))


# ruff: noqa: ARG002 - the signatures are the protocol's


def milliseconds(run: Callable[[], Any], repeats: int) -> list[float]:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1000)
    return times


def spread(times: Sequence[float]) -> str:
    ordered = sorted(times)
    tenth, ninetieth = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return f"{ordered[0]:7.2f} {statistics.median(times):7.2f}  [{tenth:.2f}, {ninetieth:.2f}]"


def overhead(n: int, max_turns: int, saver: str, repeats: int) -> list[float]:
    """Milliseconds a turn above the loop's fastest, one for each solve."""
    model = instant_model()
    given: SolverInput = {"problem": PROBLEM.model_dump(mode="json")}
    loop = min(milliseconds(lambda: plain_loop(model, n, max_turns), repeats))
    with tempfile.TemporaryDirectory() as directory:
        checkpointer, close = _saver(saver, Path(directory))
        graph = create_solver(model, sandbox=NullSandbox(), n=n, max_turns=max_turns, checkpointer=checkpointer)
        thread = iter(range(1 << 30))

        def solve() -> None:
            solution = graph.invoke(given, {"configurable": {"thread_id": str(next(thread))}})["solution"]
            assert solution["turns"] == max_turns

        times = milliseconds(solve, repeats)
        close()
    return [(elapsed - loop) / max_turns for elapsed in times]


def in_flight(solves: int, n: int, max_turns: int) -> float:
    """Milliseconds a turn with `solves` solves at once in one event loop."""
    graph = create_solver(instant_model(), sandbox=NullSandbox(), n=n, max_turns=max_turns)
    given: Any = {"problem": PROBLEM.model_dump(mode="json")}

    async def together() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(graph.ainvoke(given) for _ in range(solves)))
        return (time.perf_counter() - started) * 1000 / (solves * max_turns)

    asyncio.run(together())
    return asyncio.run(together())


def _saver(name: str, directory: Path) -> tuple[Any, Callable[[], None]]:
    if name == "memory":
        return InMemorySaver(), lambda: None
    if name == "sqlite":
        import sqlite3

        from langgraph.checkpoint.sqlite import SqliteSaver

        connection = sqlite3.connect(directory / "checkpoints.sqlite", check_same_thread=False)
        return SqliteSaver(connection), connection.close
    return None, lambda: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50, help="Solves per figure.")
    parser.add_argument("--turns", type=int, default=3)
    repeats, turns = parser.parse_args().repeats, parser.parse_args().turns
    print("milliseconds a turn above the plain loop: least, median, [10th, 90th percentile]")
    for saver in ("none", "memory", "sqlite"):
        print(f"N=5, saver {saver:7}{spread(overhead(5, turns, saver, repeats))}")
    for n in (1, 16, 64, 256):
        print(f"N={n:<4} saver none  {spread(overhead(n, turns, 'none', repeats))}")
    print("milliseconds a turn in all, solves in flight in one event loop")
    for solves in (1, 8, 64):
        print(f"N=5, {solves:2} in flight {in_flight(solves, 5, turns):7.2f}")


if __name__ == "__main__":
    main()
