"""Rollouts: K trajectories per problem, drawn by the current generator and judged apart from the graph.

Step 1 of the paper's algorithm 1: D_i = {(x, s_t, y_t, R(x, y_t))}. A trajectory is one solve, and ends where its
program passes the public tests or after T turns. Trajectories of many problems are in flight together, so that the
generator is never idle; a problem's requests begin with the same messages, which a server's prefix cache shares.
"""

import asyncio
import datetime
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from mucode_agent.evaluation.benchmarks import Benchmark
from mucode_agent.evaluation.judging import WholeSolves, distinct_programs, judge
from mucode_agent.evaluation.retry import Failure, ProgressListener, RetryPolicy, all_done, own_connections
from mucode_agent.evaluation.runner import environment
from mucode_agent.evaluation.store import Judgement, Solve, finished_solves
from mucode_agent.graphs.selection import Selector
from mucode_agent.graphs.settings import stated_sampling
from mucode_agent.graphs.solver import Solver, create_solver
from mucode_agent.models.embedded import EMBEDDED, embedded_identity
from mucode_agent.models.identity import model_name, weights_sha256
from mucode_agent.prompts import prompt_digest
from mucode_agent.traces import CandidateRow, NullTrace, TraceRow, TraceSink
from mucode_agent.training.shards import (
    Policy,
    RolloutConfig,
    RolloutIdentity,
    Shard,
    ShardDirectory,
    open_shards,
)
from mucode_agent.types import InfrastructureError, Problem, ProblemError, Sample, SamplingOptions, Sandbox, Verifier
from mucode_agent.verifiers import NoVerifier

BETWEEN_LOOKS_S = 1.0
"""How often shards that other workers hold are looked at, once nothing else is left."""


def roll_out(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    sandbox: Sandbox,
    watch: ProgressListener,
    verifier: Verifier | None = None,
    concurrency: int = 64,
    patience: float = 60.0,
    **settings: Any,
) -> list[Failure]:
    """Makes the shards that `directory` lacks, beside any other workers, and returns when every problem has its own.

    `settings` are those of `open_rollouts`; `concurrency` is the number of trajectories in flight. Returns the problems
    that were given up. Raises ProblemError where the directory holds rollouts of another identity, and
    InfrastructureError where model, sandbox or verifier failed for longer than `patience` seconds.
    """
    if concurrency < 1:
        raise ProblemError(f"concurrency must be at least 1, got {concurrency}")
    if not patience >= 0:
        raise ProblemError(f"patience must be at least 0 seconds, got {patience}")
    scorer = verifier or NoVerifier()
    shards = open_rollouts(benchmark, directory, model=model, sandbox=sandbox, verifier=scorer, **settings)
    return asyncio.run(make_shards(shards, benchmark.problems, model, sandbox, scorer, watch, concurrency, patience))


def open_rollouts(
    benchmark: Benchmark,
    directory: Path,
    *,
    model: Any,
    sandbox: Sandbox,
    verifier: Verifier,
    weights: str = "",
    per_problem: int = 15,
    max_turns: int = 3,
    n: int = 1,
    selector: Selector = "tests+verifier",
    seed: int = 0,
    command: str = "",
    **sampling: Unpack[SamplingOptions],
) -> ShardDirectory:
    """The directory, begun or gone on with.

    `weights` names the model's weights where its name does not, as with a server whose adapter is swapped; weights on
    this machine name themselves. Raises ProblemError where a setting is out of range or the identity another.
    """
    if per_problem < 1:
        raise ProblemError(f"per_problem must be at least 1, got {per_problem}")
    policy = Policy(
        model=model_name(model),
        weights=weights or weights_digest(model),
        verifier=verifier.name,
        prompt=prompt_digest(),
        per_problem=per_problem,
        max_turns=max_turns,
        n=n,
        selector=selector,
        seed=seed,
        **stated_sampling(sampling).model_dump(),
    )
    _solver(policy, per_problem - 1, model, sandbox, verifier, NullTrace())  # settings out of range end here
    identity = RolloutIdentity(
        benchmark=benchmark.name,
        split=benchmark.split,
        testless=benchmark.testless,
        problems=len(benchmark.problems),
        benchmark_sha256=benchmark.sha256,
        policy=policy,
    )
    config = RolloutConfig(
        identity=identity,
        command=command,
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        isolation=sandbox.isolation,
        environment=environment(),
    )
    return open_shards(directory, config, benchmark)


async def make_shards(
    shards: ShardDirectory,
    problems: Sequence[Problem],
    model: Any,
    sandbox: Sandbox,
    verifier: Verifier,
    watch: ProgressListener,
    concurrency: int,
    patience: float,
) -> list[Failure]:
    """Returns when each of `problems` has its shard, made here or by others, or was given up."""
    async with own_connections(model) as generator:
        worker = _Worker(shards, generator, sandbox, verifier, watch, concurrency, patience)
        return await worker.make_all(problems)


class _Worker:
    def __init__(
        self,
        shards: ShardDirectory,
        model: Any,
        sandbox: Sandbox,
        verifier: Verifier,
        watch: ProgressListener,
        concurrency: int,
        patience: float,
    ) -> None:
        policy = shards.config.identity.policy
        self.shards, self.sandbox, self.watch = shards, sandbox, watch
        self.retry = RetryPolicy(patience, watch, shards.directory)
        self.gate = asyncio.Semaphore(concurrency)
        # While some problems wait for their last trajectory or their judgement, others keep the generator busy.
        self.at_once = math.ceil(2 * concurrency / policy.per_problem) + 1
        self.solves: list[dict[str, Solve]] = [{} for _ in range(policy.per_problem)]
        self.solvers = [
            _solver(policy, k, model, sandbox, verifier, _Trace(self._drawn, functools.partial(self._solved, k)))
            for k in range(policy.per_problem)
        ]

    def _drawn(self, samples: Sequence[Sample]) -> None:
        self.retry.succeeded()
        self.watch.drawn(samples)

    def _solved(self, k: int, rows: list[TraceRow]) -> None:
        (solve,) = finished_solves(rows)
        self.solves[k][solve.problem_id] = solve

    async def make_all(self, problems: Iterable[Problem]) -> list[Failure]:
        failures: list[Failure] = []
        todo, finished = [], self.shards.keys()
        for problem in problems:
            if self.shards.key(problem) in finished:
                self.watch.finished(problem.id, {})
            else:
                todo.append(problem)
        while todo:
            held: list[Problem] = []
            queue = iter(todo)
            await all_done([self.work_off(queue, held, failures) for _ in range(min(self.at_once, len(todo)))])
            todo = held
            if held:
                self.watch.waiting(f"other workers hold the last {len(held)} shards", BETWEEN_LOOKS_S)
                await asyncio.sleep(BETWEEN_LOOKS_S)
        return failures

    async def work_off(self, queue: Iterator[Problem], held: list[Problem], failures: list[Failure]) -> None:
        for problem in queue:
            key = self.shards.key(problem)
            with self.shards.claim(key) as mine:
                if self.shards.exists(key):  # only now: its maker may have finished before our claim
                    self.watch.finished(problem.id, {})
                elif not mine:
                    held.append(problem)
                elif (failure := await self.make(problem, key)) is not None:
                    failures.append(failure)

    async def make(self, problem: Problem, key: str) -> Failure | None:
        judged: dict[str, Judgement] = {}
        outcome = await self.retry.attempt(problem.id, lambda: self.finish(problem, key, judged))
        for solves in self.solves:
            solves.pop(problem.id, None)
        if isinstance(outcome, Failure):
            return outcome
        self.shards.write(outcome)  # not in a thread, which could outlive the lock; a full disk ends the run
        self.retry.succeeded()
        self.watch.finished(problem.id, {"correct": outcome.correct})
        return None

    async def finish(self, problem: Problem, key: str, judged: dict[str, Judgement]) -> Shard:
        """What a failing model or sandbox leaves undone is done by the next call; `judged` keeps the verdicts."""
        solves = await self.trajectories(problem)
        programs = distinct_programs(candidate for solve in solves for candidate in solve.candidates)
        missing = {form: code for form, code in programs.items() if form not in judged}
        await judge(self.sandbox, problem, missing, lambda rows: judged.update({row.program: row for row in rows}))
        verdicts = tuple(judged[form] for form in programs)
        return Shard(key=key, problem_id=problem.id, solves=tuple(solves), judgements=verdicts)

    async def trajectories(self, problem: Problem) -> list[Solve]:
        results = await asyncio.gather(
            *(self.solve(k, problem) for k in range(len(self.solvers))), return_exceptions=True
        )
        if failed := [result for result in results if isinstance(result, BaseException)]:
            # What the problem's owner must fix comes before what another attempt may fix.
            raise min(failed, key=lambda error: isinstance(error, InfrastructureError))
        return [solve for solve in results if isinstance(solve, Solve)]

    async def solve(self, k: int, problem: Problem) -> Solve:
        if problem.id not in self.solves[k]:
            async with self.gate:
                await self.solvers[k].ainvoke({"problem": problem.public().model_dump(mode="json")})
        return self.solves[k][problem.id]


class _Trace:
    """Tells of every new sample, and keeps solves until they are whole."""

    def __init__(self, drawn: Any, finish: Any) -> None:
        self._drawn, self._whole = drawn, WholeSolves(finish)

    def write(self, rows: Sequence[TraceRow]) -> None:
        if samples := [row.candidate.sample for row in rows if isinstance(row, CandidateRow)]:
            self._drawn(samples)
        self._whole.write(rows)


def weights_digest(model: Any) -> str:
    """SHA-256 of a checkpoint's files on this machine; empty for a model that is named, not located.

    An embedded model with an adapter has the digest of both: the next version may ship another under its name.
    """
    named = getattr(model, "model", None)
    if isinstance(named, str) and named in EMBEDDED:
        return embedded_identity(named).partition("@")[2]
    if not isinstance(named, str) or not (path := Path(named).expanduser()).exists():
        return ""
    return weights_sha256(path)


def _solver(policy: Policy, k: int, model: Any, sandbox: Sandbox, verifier: Verifier, trace: TraceSink) -> Solver:
    """Draws trajectory k."""
    return create_solver(
        model,
        sandbox=sandbox,
        verifier=verifier,
        trace=trace,
        n=policy.n,
        max_turns=policy.max_turns,
        selector=policy.selector,
        seed=policy.seed + k,
        **policy.request(),
    )
