"""The worker of a run: many problems at once, each searched by every arm and then judged outside the graph.

The graph sees a problem without its private tests. Afterwards every candidate is judged here on all tests. So every
candidate gets a label, but no selection could use it. Any number of workers may share a directory.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from mucode_agent.calls import all_done
from mucode_agent.files import Journal, digest
from mucode_agent.graphs.settings import Settings
from mucode_agent.graphs.solver import SolverInput, create_solver
from mucode_agent.prompts import prompt_digest
from mucode_agent.runs.config import Arm, Benchmark, Config, Identity, Pace, environment, now, reason_against
from mucode_agent.runs.directory import DrawnRow, Judgement, RunDirectory, Shard, Solve, finished_solves, open_run
from mucode_agent.runs.judging import WholeSolves, distinct_programs, judge
from mucode_agent.runs.recorded import Draws, RecordedModel
from mucode_agent.runs.retry import Failure, ProgressListener, RetryPolicy, own_connections
from mucode_agent.traces import TraceRow
from mucode_agent.types import InfrastructureError, Problem, ProblemError, Sample, Sandbox, Verifier

BETWEEN_LOOKS_S = 1.0
"""How often, in seconds, to check shards that other workers hold, once nothing else is left."""


def begin_run(
    benchmark: Benchmark,
    directory: Path,
    arms: Sequence[Arm],
    *,
    model: Any,
    model_name: str,
    weights: str = "",
    sandbox: Sandbox,
    verifier: Verifier,
    command: str = "",
) -> RunDirectory:
    """The directory, new or continued. Raises ProblemError if a setting is out of range or the run is another one."""
    for arm in arms:  # unusable settings must not reach the directory
        if (reason := reason_against(arm)) is not None:
            raise ProblemError(reason)
        create_solver(model, sandbox=sandbox, verifier=verifier, **arm.solve_settings(arm.repeats - 1))
    identity = Identity(
        benchmark=benchmark.name,
        split=benchmark.split,
        testless=benchmark.testless,
        problems=len(benchmark.problems),
        benchmark_sha256=benchmark.sha256,
        model=model_name,
        weights=weights,
        verifier=verifier.name,
        prompt=prompt_digest(),
        arms=tuple(arms),
    )
    config = Config(
        identity=identity,
        command=command,
        started=now(),
        isolation=sandbox.isolation,
        environment=environment(),
    )
    return open_run(directory, config, benchmark)


def work(
    run: RunDirectory,
    problems: Sequence[Problem],
    model: Any,
    sandbox: Sandbox,
    verifier: Verifier,
    watch: ProgressListener,
    pace: Pace,
) -> list[Failure]:
    """Works until each of `problems` has its shard, made here or by others, or was given up; returns those given up.

    Args:
        run: Stores every completion and finished shard immediately.
        problems: With their private tests.
        model: The generator: anything that `models.sampling.sample` accepts.
        sandbox: Runs candidates on public tests for the graph, and on all tests for the judgement.
        verifier: Scores candidates.
        watch: Called for every draw and finished problem.
        pace: Concurrency, and how long to wait for a failing part.

    Raises:
        InfrastructureError: A failure lasted too long, or the disk is full. The same call continues from what is saved.
    """

    async def all_problems() -> list[Failure]:
        async with own_connections(model) as generator:
            worker = _Worker(run, generator, sandbox, verifier, watch, pace)
            return await worker.make_all(problems)

    return asyncio.run(all_problems())


class _Worker:
    def __init__(
        self,
        run: RunDirectory,
        model: Any,
        sandbox: Sandbox,
        verifier: Verifier,
        watch: ProgressListener,
        pace: Pace,
    ) -> None:
        self.run, self.model, self.sandbox, self.verifier, self.watch = run, model, sandbox, verifier, watch
        self.identity = run.config.identity
        self.solver = create_solver(
            RecordedModel(self.identity.model, model, lambda: _making.get().draws, self.drawn),
            sandbox=sandbox,
            verifier=verifier,
            trace=_TraceOfProblem(),
        )
        self.retry = RetryPolicy(pace.patience, watch, run.directory)
        self.gate = asyncio.Semaphore(pace.concurrency)
        # While some problems wait for their last solve or their judgement, others keep the generator busy.
        self.at_once = math.ceil(2 * pace.concurrency / max(arm.repeats for arm in self.identity.arms)) + 1

    def drawn(self, samples: Sequence[Sample]) -> None:
        self.retry.succeeded()
        self.watch.drawn(samples)

    async def make_all(self, problems: Iterable[Problem]) -> list[Failure]:
        failures: list[Failure] = []
        todo: list[tuple[Problem, str]] = []
        finished = self.run.keys()
        for problem in problems:
            if (key := self.run.key(problem)) in finished:
                self.run.forget_drawn(key)  # if its maker was killed before it could
                self.watch.finished(problem.id, {})
            else:
                todo.append((problem, key))
        while todo:
            held: list[tuple[Problem, str]] = []
            queue = iter(todo)
            await all_done([self.work_off(queue, held, failures) for _ in range(min(self.at_once, len(todo)))])
            todo = held
            if held:
                self.watch.waiting(f"other workers hold the last {len(held)} problems", BETWEEN_LOOKS_S)
                await asyncio.sleep(BETWEEN_LOOKS_S)
        return failures

    async def work_off(
        self, queue: Iterator[tuple[Problem, str]], held: list[tuple[Problem, str]], failures: list[Failure]
    ) -> None:
        for problem, key in queue:
            with self.run.claim(key) as mine:
                if self.run.exists(key):  # only now: its maker may have finished before our claim
                    self.watch.finished(problem.id, {})
                elif not mine:
                    held.append((problem, key))
                elif (failure := await self.make(problem, key)) is not None:
                    failures.append(failure)

    async def make(self, problem: Problem, key: str) -> Failure | None:
        with self.run.drawn(key) as journal:
            making = _Making(self, problem, key, journal)
            outcome = await self.retry.attempt(problem.id, making.shard)
        if isinstance(outcome, Failure):
            return outcome
        self.run.write(outcome)  # not in a thread, which could outlive the lock
        self.retry.succeeded()
        self.watch.finished(problem.id, outcome.right())
        return None


_making: ContextVar["_Making"] = ContextVar("making")
"""The current problem: one solver serves all problems of a worker, and each problem has its own journal."""


class _TraceOfProblem:
    """Passes the solver's rows to the current problem."""

    def write(self, rows: Sequence[TraceRow]) -> None:
        _making.get().trace.write(rows)


class _Making:
    """One problem's unfinished shard. If the model or sandbox fails, the next call continues."""

    def __init__(self, worker: _Worker, problem: Problem, key: str, journal: Journal[DrawnRow]) -> None:
        self.worker, self.problem, self.key, self.arms = worker, problem, key, worker.identity.arms
        self.solves: dict[str, Solve] = {}
        self.judged: dict[str, Judgement] = {}
        self.draws, self.trace = Draws(journal), WholeSolves(self._solved)

    def _solved(self, rows: list[TraceRow]) -> None:
        (solve,) = finished_solves(rows)
        self.solves[_named(solve.settings)] = solve

    async def shard(self) -> Shard:
        solves = await self.search()
        programs = distinct_programs(candidate for solve in solves for candidate in solve.candidates)
        missing = {form: code for form, code in programs.items() if form not in self.judged}
        await judge(self.worker.sandbox, self.problem, missing, self._judged)
        verdicts = tuple(self.judged[form] for form in programs)
        return Shard(key=self.key, problem_id=self.problem.id, solves=tuple(solves), judgements=verdicts)

    async def search(self) -> list[Solve]:
        """Runs every solve, arm by arm."""
        repeats = range(max(arm.repeats for arm in self.arms))
        results = await asyncio.gather(*(self.solve_all(k) for k in repeats), return_exceptions=True)
        if failed := [result for result in results if isinstance(result, BaseException)]:
            # An error that the user must fix comes before one that a retry may fix.
            raise min(failed, key=lambda error: isinstance(error, InfrastructureError))
        return [await self.solve(arm, k) for arm in self.arms for k in range(arm.repeats)]

    async def solve_all(self, k: int) -> None:
        """The k-th solve of each arm, in sequence: each reuses the samples of the one before."""
        async with self.worker.gate:
            for arm in self.arms:
                if k < arm.repeats:
                    await self.solve(arm, k)

    async def solve(self, arm: Arm, k: int) -> Solve:
        settings = Settings(**arm.solve_settings(k))
        name = _named(settings.model_dump(mode="json"))
        if name not in self.solves:
            given: SolverInput = {"problem": self.problem.public().model_dump(mode="json")}
            _making.set(self)  # in this task and those that it starts
            await self.worker.solver.ainvoke(given, context=settings)
        return self.solves[name].model_copy(update={"arm": arm.name})

    def _judged(self, judgements: list[Judgement]) -> None:
        self.judged |= {row.program: row for row in judgements}


def _named(settings: dict[str, Any]) -> str:
    """Identifies a solve of a problem by its settings, in JSON form; a trace's settings contain more."""
    return digest({name: settings.get(name) for name in Settings.model_fields})
