"""Finding a sandbox by name, and running a list of jobs on any of them."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from importlib.util import find_spec

from mucode_agent.tools.local import LocalSandbox, Require
from mucode_agent.types import ExecutionReport, Job, ProblemError, Sandbox

IN_FLIGHT = 256
"""Jobs that `arun` has submitted and not yet seen end."""


def load_sandbox(
    spec: str = "local", *, workers: int | None = None, require: Require = "any", preload: Sequence[str] = ()
) -> Sandbox:
    """The sandbox named `local` or `e2b`. Nothing starts before its first job.

    `workers` is the number of programs at a time, on E2B of virtual machines (2 unless given). `require="strong"` is
    met by E2B as such: programs run on another machine; the layers within it are named in every report. `preload`
    names the installed modules that programs of the local sandbox may import beside the standard library.
    """
    if spec == "local":
        for name in preload:
            if not is_installed(name):
                raise ProblemError(f"no module {name!r} can be preloaded: install it, or leave it out")
        return LocalSandbox(workers=workers, preload=preload, require=require)
    if preload:
        raise ProblemError(f"only the local sandbox preloads modules, not {spec!r}: leave out {', '.join(preload)}")
    if spec == "e2b":
        from mucode_agent.tools.e2b import E2BSandbox

        sandbox: Sandbox = E2BSandbox(machines=2 if workers is None else workers)
        return sandbox
    raise ProblemError(f"no sandbox is called {spec!r}: use 'local' or 'e2b'")


def is_installed(name: str) -> bool:
    """Whether programs can get the module by preloading it."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):  # of a dotted name, a parent; of an odd one, the name
        return False


def run(sandbox: Sandbox, jobs: Iterable[Job]) -> list[ExecutionReport]:
    """The reports of the jobs, in their order. An interruption kills what still runs."""
    futures: list[Future[ExecutionReport]] = []
    try:
        futures.extend(sandbox.submit(job) for job in jobs)
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()


async def arun(sandbox: Sandbox, jobs: Sequence[Job]) -> list[ExecutionReport]:
    """The reports of the jobs, in their order. Cancelling kills what still runs."""
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(job: Job) -> ExecutionReport:
        async with room:
            return await asyncio.wrap_future(sandbox.submit(job))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job)) for job in jobs]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # as `run` has it: one job's failure is the failure
    return [task.result() for task in tasks]
