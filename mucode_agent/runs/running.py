"""How untrusted programs run: the same settings for every command and for `train loop`."""

from collections.abc import Iterable
from concurrent.futures import Future
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from mucode_agent.runs.config import Benchmark
from mucode_agent.types import ExecutionReport, Job, Judge, Problem, Record, Sandbox


class Running(Record):
    """Where programs run, with which isolation, and which judge decides."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    sandbox: str = "local"
    """Where programs run: local · e2b"""
    require_isolation: Literal["any", "strong"] = "any"
    """strong refuses a host that lacks a layer of isolation, any warns:"""
    preload: tuple[str, ...] = ()
    """A module that programs may import, such as numpy; may be repeated. What a benchmark's tests import is added."""
    timeout: Annotated[float, Field(gt=0, le=3600)] | None = None
    """CPU seconds to load a program and for each test; default: the problem's or row's own limit, else 5."""
    judge: Judge | None = None
    """Which judge runs the code tests: apart, which no program can forge, or together, in the program's process, which
    runs every test that Python runs. Default: the row's or problem's own judge, else apart.
    """

    def job(self, job: Job) -> Job:
        """With this time limit and judge instead of its own."""
        return job.model_copy(update=self._instead(job))

    def problem(self, problem: Problem) -> Problem:
        """With this time limit and judge instead of its own."""
        return problem.model_copy(update=self._instead(problem))

    def benchmark(self, benchmark: Benchmark) -> Benchmark:
        """With the limit and judge of every problem; both change its digest."""
        return benchmark.model_copy(update={"problems": tuple(map(self.problem, benchmark.problems))})

    def packages(self, problems: Iterable[Problem]) -> tuple[str, ...]:
        """The packages preloaded for these problems. Raises ProblemError naming a package that is not installed."""
        from mucode_agent.runs.libraries import preloads

        return preloads(problems, self.preload, self.sandbox)

    def open(self, problems: Iterable[Problem] = (), *, workers: int | None = None) -> Sandbox:
        """The sandbox, with the packages that the problems' tests import. Raises ProblemError."""
        from mucode_agent.tools.sandbox import load_sandbox

        packages = self.packages(problems)
        return load_sandbox(self.sandbox, workers=workers, require=self.require_isolation, preload=packages)

    def open_for_any(self, problems: Iterable[Problem] = ()) -> Sandbox:
        """For problems that are unknown yet, or must not change: the limit and judge are set on every job."""
        return _Set(self, self.open(problems))

    def _instead(self, of: Job | Problem) -> dict[str, object]:
        instead: dict[str, object] = {} if self.judge is None else {"judge": self.judge}
        if self.timeout is not None:
            instead["limits"] = of.limits.model_copy(update={"time_s": self.timeout})
        return instead


class _Set:
    """A sandbox that runs every job with the limit and judge of `running`."""

    def __init__(self, running: Running, inner: Sandbox) -> None:
        self._running, self._inner = running, inner

    @property
    def isolation(self) -> str:
        return self._inner.isolation

    def submit(self, job: Job) -> Future[ExecutionReport]:
        return self._inner.submit(self._running.job(job))

    def close(self) -> None:
        self._inner.close()
