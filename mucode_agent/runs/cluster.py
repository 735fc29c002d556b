"""A run as tasks of a Ray cluster: each task makes one shard, with its lock, as a worker on one machine would.

The directory must be on a file system that every node sees, with `flock`. If a task's process dies, its lock is
released and Ray restarts the task. Workers without Ray may share the directory at the same time.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from mucode_agent.runs.config import Pace
from mucode_agent.runs.directory import RunDirectory, read_config
from mucode_agent.runs.retry import Failure, ProgressListener
from mucode_agent.runs.running import Running
from mucode_agent.runs.worker import work
from mucode_agent.types import InfrastructureError, Problem, ProblemError, Record, Sample, Sandbox, Verifier

DEATHS = 5
"""How many processes may die on one shard before its problem is given up."""


class Tools(Record):
    """What a task needs to make a shard, by name, because remote processes load it themselves."""

    directory: Path
    model: str
    verifier: str
    running: Running
    """How programs run, with the packages of all problems in `preload`."""
    patience: float
    request_timeout: float | None = None


class Made(Record):
    """The result of one task."""

    problem_id: str
    outcomes: dict[str, float] = Field(default_factory=dict)
    """By arm, the share of right answers; empty if this task did not make the shard."""
    tokens: int = 0
    failure: str = ""
    outage: bool = False
    """Whether the model, sandbox or verifier failed for longer than the run's patience."""


def make_shards_on_ray(
    run: RunDirectory,
    problems: Sequence[Problem],
    tools: Tools,
    watch: ProgressListener,
    *,
    workers: int | None = None,
) -> list[Failure]:
    """Like `worker.work`, with at most `workers` concurrent tasks; default: one per processor of the cluster.

    Joins the cluster that RAY_ADDRESS names, else starts one on this machine. Raises ProblemError if Ray is not
    installed, and InfrastructureError if as many tasks in a row as run concurrently met an outage.
    """
    if workers is not None and workers < 1:
        raise ProblemError(f"workers must be at least 1, got {workers}")
    done = run.keys()
    todo = []
    for problem in problems:
        if run.key(problem) in done:
            watch.finished(problem.id, {})
        else:
            todo.append(problem)
    if not todo:
        return []
    with _cluster() as ray:
        processors = ray.cluster_resources().get("CPU", 1)
        at_once = min(workers or int(processors), len(todo))
        task = ray.remote(num_cpus=min(1.0, processors / at_once), max_retries=DEATHS)(make_shard)
        return _Driver(ray, functools.partial(task.remote, tools.model_dump(mode="json")), watch, at_once).run(todo)


def make_shard(tools: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    """The task: tools, problem and answer are JSON forms of `Tools`, `Problem` and `Made`."""
    given, asked = Tools.model_validate(tools), Problem.model_validate(problem)
    outcome = _Outcome()
    try:
        run, model, sandbox, verifier = _loaded(given)
        in_flight = max(arm.repeats for arm in run.config.identity.arms)
        pace = Pace(concurrency=in_flight, patience=given.patience)
        failures = work(run, [asked], model, sandbox, verifier, outcome, pace)
        made = Made(
            problem_id=asked.id,
            outcomes=outcome.outcomes,
            tokens=outcome.tokens,
            failure=failures[0].cause if failures else "",
        )
    except (ProblemError, InfrastructureError) as error:
        made = Made(problem_id=asked.id, tokens=outcome.tokens, failure=str(error), outage=True)
    return made.model_dump(mode="json")


class _Driver:
    """Keeps as many tasks submitted as the cluster can run, plus a few waiting."""

    def __init__(self, ray: Any, submit: Any, watch: ProgressListener, at_once: int) -> None:
        self.ray, self.submit, self.watch, self.at_once = ray, submit, watch, at_once
        self.failures: list[Failure] = []
        self.outages = 0

    def run(self, problems: Sequence[Problem]) -> list[Failure]:
        waiting, under_way = iter(problems), {}
        try:
            while True:
                for problem in waiting:
                    under_way[self.submit(problem.model_dump(mode="json"))] = problem
                    if len(under_way) >= 2 * self.at_once:
                        break
                if not under_way:
                    return self.failures
                ended, _ = self.ray.wait(list(under_way), num_returns=1)
                for reference in ended:
                    self.take(under_way.pop(reference), reference)
        finally:
            for reference in under_way:
                self.ray.cancel(reference, force=True)

    def take(self, problem: Problem, reference: Any) -> None:
        try:
            made = Made.model_validate(self.ray.get(reference))
        except self.ray.exceptions.RayError as error:  # its processes died repeatedly
            cause = " ".join(str(error).split())[:300]
            made = Made(problem_id=problem.id, failure=f"a task of the cluster failed: {cause}", outage=True)
        if made.tokens:
            self.watch.drawn([Sample(text="", seed=0, completion_tokens=made.tokens)])
        if not made.failure:
            self.outages = 0
            self.watch.finished(made.problem_id, made.outcomes)
            return
        self.failures.append(Failure(problem_id=made.problem_id, cause=made.failure))
        self.outages = self.outages + 1 if made.outage else 0
        if self.outages >= self.at_once:
            raise InfrastructureError(made.failure)


class _Outcome:
    """The outcome of a task's one problem."""

    def __init__(self) -> None:
        self.tokens = 0
        self.outcomes: dict[str, float] = {}

    def drawn(self, samples: Sequence[Sample]) -> None:
        self.tokens += sum(sample.completion_tokens for sample in samples)

    def finished(self, problem_id: str, outcomes: dict[str, float]) -> None:
        del problem_id
        self.outcomes = outcomes

    def waiting(self, cause: str, seconds: float) -> None:
        del cause, seconds


@functools.lru_cache(maxsize=1)
def _loaded(tools: Tools) -> tuple[RunDirectory, Any, Sandbox, Verifier]:
    """Once per process. A sandbox of one interpreter: the cluster counts a processor per task."""
    from mucode_agent.models.load import load_model
    from mucode_agent.verifiers import load_verifier

    run = RunDirectory(tools.directory, read_config(tools.directory))
    model = load_model(tools.model, timeout=tools.request_timeout, **run.config.identity.arms[0].request())
    return run, model, tools.running.open(workers=1), load_verifier(tools.verifier)


@contextlib.contextmanager
def _cluster() -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise ProblemError("--ray needs Ray: pip install 'mucode-agent[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:300]
        raise InfrastructureError(f"no Ray cluster could be joined or started: {cause}; see RAY_ADDRESS") from error
    try:
        yield ray
    finally:
        ray.shutdown()
