"""Runs a benchmark: problems in flight at once, each solved by every arm and judged apart from the graph.

The graph sees a problem without its private tests. Whatever it draws is judged here afterwards on all tests, so that
every candidate has a label and no selection ever had one.
"""

import asyncio
import contextlib
import datetime
import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

from mucode_agent.evaluation.benchmarks import Benchmark
from mucode_agent.evaluation.judging import WholeSolves, distinct_programs, judge
from mucode_agent.evaluation.recorded import RecordedModel
from mucode_agent.evaluation.results import belongs
from mucode_agent.evaluation.retry import Failure, ProgressListener, RetryPolicy, all_done, own_connections
from mucode_agent.evaluation.store import (
    Arm,
    ArmName,
    Config,
    Identity,
    Judgement,
    Solve,
    Store,
    finished_solves,
    open_store,
)
from mucode_agent.graphs.selection import Selector, normal_form
from mucode_agent.graphs.settings import stated_sampling
from mucode_agent.graphs.solver import Solver, create_solver
from mucode_agent.prompts import prompt_digest
from mucode_agent.traces import NullTrace, TraceRow, TraceSink
from mucode_agent.types import Problem, Sample, SamplingOptions, Sandbox, Verifier
from mucode_agent.verifiers import NoVerifier


def arms(*, n: int, max_turns: int, temperature: float, greedy: bool, independent: bool) -> tuple[Arm, ...]:
    """The arms of a run: `turns` always, the others where asked for and where they would be something else."""
    sampled = Arm(name="turns", n=n, max_turns=max_turns, temperature=temperature)
    lone = Arm(name="greedy", n=1, max_turns=max_turns, temperature=0.0)
    same_compute = Arm(name="independent", n=n * max_turns, max_turns=1, temperature=temperature, wave=n)
    if temperature == 0 and n == 1:
        return (lone,)
    return (*((lone,) if greedy else ()), sampled, *((same_compute,) if independent and max_turns > 1 else ()))


def run_benchmark(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    model_name: str,
    sandbox: Sandbox,
    verifier: Verifier | None = None,
    watch: ProgressListener,
    n: int = 5,
    max_turns: int = 3,
    greedy: bool = True,
    independent: bool = True,
    selector: Selector = "tests+verifier",
    accept_threshold: float | None = None,
    show_dispute: bool = False,
    seed: int = 0,
    concurrency: int = 16,
    patience: float = 60.0,
    command: str = "",
    **sampling: Unpack[SamplingOptions],
) -> list[Failure]:
    """Starts a run in `directory`, or continues it, until every problem is finished or given up.

    `model` is anything that `models.sample` draws from, and `model_name` what the run is known by. Returns the problems
    that were given up; `report.write_report` makes the figures. Raises ProblemError where the directory holds another
    run or is in use, and InfrastructureError where the model, sandbox or verifier failed for longer than `patience`
    seconds.
    """
    scorer = verifier or NoVerifier()
    stated = stated_sampling(sampling)
    searches = arms(n=n, max_turns=max_turns, temperature=stated.temperature, greedy=greedy, independent=independent)
    identity = Identity(
        benchmark=benchmark.name,
        split=benchmark.split,
        testless=benchmark.testless,
        problems=len(benchmark.problems),
        benchmark_sha256=benchmark.sha256,
        model=model_name,
        verifier=scorer.name,
        prompt=prompt_digest(show_dispute),
        arms=searches,
        selector=selector,
        accept_threshold=accept_threshold,
        show_dispute=show_dispute,
        seed=seed,
        **stated.model_dump(exclude={"temperature"}),
    )
    config = Config(
        identity=identity,
        command=command,
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        isolation=sandbox.isolation,
        environment=environment(),
    )
    for arm in identity.arms:  # settings out of range must not reach the directory
        _solver(arm, identity, model, sandbox, scorer, NullTrace())
    with open_store(directory, config, benchmark) as store:
        return asyncio.run(
            evaluate(
                store,
                benchmark.problems,
                model=model,
                sandbox=sandbox,
                verifier=scorer,
                watch=watch,
                concurrency=concurrency,
                patience=patience,
            )
        )


_PACKAGES = ("mucode-agent", "langgraph", "langchain-core", "langchain-openai", "pydantic", "torch", "transformers")


def environment() -> dict[str, str]:
    """Versions that take part, so that somebody else can stand where this run stood."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


async def evaluate(
    store: Store,
    problems: Sequence[Problem],
    *,
    model: Any,
    sandbox: Sandbox,
    verifier: Verifier,
    watch: ProgressListener,
    concurrency: int = 16,
    patience: float = 60.0,
) -> list[Failure]:
    """Finishes what the store lacks, and returns the problems that could not be finished.

    Args:
        store: Takes every completion, finished solve and judgement at once.
        problems: With their private tests.
        model: The generator.
        sandbox: Runs candidates on public tests for the graph, and on all tests for the judgement.
        verifier: Scores candidates.
        watch: Told of every draw and finished problem.
        concurrency: Problems being solved at once; those being judged come on top.
        patience: Seconds without any success after which a failing model, sandbox or verifier ends the run.

    Raises:
        InfrastructureError: The retry policy gives up. What was finished is saved; the same call continues from there.
    """
    async with own_connections(model) as generator:
        run = _Run(store, generator, sandbox, verifier, watch, concurrency, patience)
        outcomes = await all_done([run.problem(problem) for problem in problems])
    return [failure for failure in outcomes if failure is not None]


class _Run:
    def __init__(
        self,
        store: Store,
        model: Any,
        sandbox: Sandbox,
        verifier: Verifier,
        watch: ProgressListener,
        concurrency: int,
        patience: float,
    ) -> None:
        identity = store.config.identity
        self.store, self.sandbox, self.watch = store, sandbox, watch
        self.retry = RetryPolicy(patience, watch, store.directory)
        self.arms, self.judged, self.gate = identity.arms, store.judged(), asyncio.Semaphore(concurrency)
        recorded = RecordedModel(identity.model, model, store.samples, self._drawn)
        trace = WholeSolves(self._solved)
        self.solvers = {arm.name: _solver(arm, identity, recorded, sandbox, verifier, trace) for arm in self.arms}
        self.solves: dict[tuple[ArmName, str], Solve] = {}
        for solve in store.solves():
            self._found(solve)

    def _drawn(self, samples: Sequence[Sample]) -> None:
        self.retry.succeeded()
        self.watch.drawn(samples)

    def _solved(self, rows: list[TraceRow]) -> None:
        self.store.trace.append(rows)
        (solve,) = finished_solves(rows)
        self._found(solve)

    def _found(self, solve: Solve) -> None:
        for arm in self.arms:
            if belongs(solve, arm):
                self.solves[arm.name, solve.problem_id] = solve

    async def problem(self, problem: Problem) -> Failure | None:
        outcome = await self.retry.attempt(problem.id, lambda: self.finish(problem))
        if isinstance(outcome, Failure):
            return outcome
        self.retry.succeeded()
        self.watch.finished(problem.id, {name: self.right(problem, solve) for name, solve in outcome.items()})
        return None

    async def finish(self, problem: Problem) -> dict[str, Solve]:
        async with self.gate:  # one arm after the other: the next finds the samples of this
            solves: dict[str, Solve] = {arm.name: await self.solve(arm, problem) for arm in self.arms}
        await self.judge(problem, solves.values())  # outside, so that the generator has its next problem
        return solves

    async def solve(self, arm: Arm, problem: Problem) -> Solve:
        if (arm.name, problem.id) not in self.solves:
            await self.solvers[arm.name].ainvoke({"problem": problem.public().model_dump(mode="json")})
        return self.solves[arm.name, problem.id]

    def right(self, problem: Problem, solve: Solve) -> bool:
        code = solve.solution.code
        return bool(code) and self.judged[problem.id, normal_form(code)].correct

    async def judge(self, problem: Problem, solves: Iterable[Solve]) -> None:
        """Every distinct program on all tests. Each is judged once in a run, whatever arm drew it."""
        programs = distinct_programs(candidate for solve in solves for candidate in solve.candidates)
        missing = {form: code for form, code in programs.items() if (problem.id, form) not in self.judged}
        await judge(self.sandbox, problem, missing, self._judged)

    def _judged(self, judgements: list[Judgement]) -> None:
        self.store.judgements.append(judgements)
        self.judged |= {(row.problem_id, row.program): row for row in judgements}


def _solver(arm: Arm, identity: Identity, model: Any, sandbox: Sandbox, verifier: Verifier, trace: TraceSink) -> Solver:
    sampling = identity.request()
    sampling["temperature"] = arm.temperature
    return create_solver(
        model,
        sandbox=sandbox,
        verifier=verifier,
        trace=trace,
        n=arm.n,
        max_turns=arm.max_turns,
        selector=identity.selector,
        accept_threshold=identity.accept_threshold,
        show_dispute=identity.show_dispute,
        trust_calibration=True,  # what it is worth on this generator is what a run measures
        seed=identity.seed,
        **sampling,
    )
