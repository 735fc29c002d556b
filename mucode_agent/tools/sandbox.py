"""Finding a sandbox by name, sharing one in a process, and running a list of jobs on any of them."""

import asyncio
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from importlib.util import find_spec
from weakref import WeakSet

from mucode_agent.tools.local import LocalSandbox, Require
from mucode_agent.types import ExecutionReport, InfrastructureError, Job, ProblemError, Sandbox

_CLOSED = "the sandbox was closed while programs ran: create a new one, or close it later"
SANDBOXES = ("local", "e2b")
"""The names that `load_sandbox` knows."""
IN_FLIGHT = 256
"""Jobs of `arun` that have been submitted and have not ended."""


def load_sandbox(
    spec: str = "local", *, workers: int | None = None, require: Require = "any", preload: Sequence[str] = ()
) -> Sandbox:
    """The sandbox named `local` or `e2b`. Nothing starts before its first job.

    `workers` is the number of concurrent programs, on E2B of virtual machines (default 2). E2B always satisfies
    `require="strong"`, because programs run on another machine; every report names the layers inside it. `preload`
    names installed modules that programs of the local sandbox may import besides the standard library.
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
    raise ProblemError(f"no sandbox is called {spec!r}: use {' or '.join(map(repr, SANDBOXES))}")


def is_installed(name: str) -> bool:
    """Whether the module can be preloaded for programs."""
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):  # of a dotted name, a parent; of an odd one, the name
        return False


class SharedSandbox:
    """One solver's reference to the local sandbox that all solvers of a process share. It ends with the last one."""

    def __init__(self) -> None:
        with _SHARED.lock:
            if _SHARED.holders == 0:
                _SHARED.sandbox = LocalSandbox()
            _SHARED.holders += 1
            self._sandbox = _SHARED.sandbox
        self._futures: WeakSet[Future[ExecutionReport]] = WeakSet()
        self._end = weakref.finalize(self, _SHARED.leave)
        self._end.atexit = False

    @property
    def isolation(self) -> str:
        return self._sandbox.isolation

    def submit(self, job: Job) -> Future[ExecutionReport]:
        if not self._end.alive:
            raise RuntimeError("the sandbox is closed: create a new one")
        future = self._sandbox.submit(job)
        self._futures.add(future)
        return future

    def close(self) -> None:
        """Cancels this holder's programs, and ends the sandbox if there is no other holder."""
        for future in list(self._futures):
            future.cancel()
        if self._end.detach() is not None and (last := _SHARED.left()) is not None:
            last.close()


class _Shared:
    """The process's sandbox and its number of holders."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a holder may be collected while its thread holds it
        self.sandbox = LocalSandbox()
        self.holders = 0

    def left(self) -> LocalSandbox | None:
        """One holder less; the sandbox, if that was the last one."""
        with self.lock:
            self.holders -= 1
            return self.sandbox if self.holders == 0 else None

    def leave(self) -> None:
        """For a garbage-collected holder: the collector's thread must not wait for processes to end."""
        if (last := self.left()) is not None:
            threading.Thread(target=last.close, name="mucode-sandbox-end", daemon=True).start()


_SHARED = _Shared()


class Programs:
    """The programs of `run` in all threads of one call; `kill` ends them, and those that start later."""

    current: ContextVar["Programs | None"] = ContextVar("current", default=None)

    def __init__(self) -> None:
        self._lock = threading.RLock()  # `kill` may be called by a signal handler
        self._futures: WeakSet[Future[ExecutionReport]] = WeakSet()
        self._killed = False

    def add(self, future: Future[ExecutionReport]) -> None:
        with self._lock:
            self._futures.add(future)
            killed = self._killed
        if killed:
            future.cancel()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            futures = list(self._futures)
        for future in futures:
            future.cancel()


def run(sandbox: Sandbox, jobs: Iterable[Job]) -> list[ExecutionReport]:
    """The reports of the jobs, in order. An interruption kills the running programs."""
    futures: list[Future[ExecutionReport]] = []
    programs = Programs.current.get()
    try:
        for job in jobs:
            futures.append(sandbox.submit(job))
            if programs is not None:
                programs.add(futures[-1])
        return [_report(future) for future in futures]
    finally:
        for future in futures:
            future.cancel()


def _report(future: Future[ExecutionReport]) -> ExecutionReport:
    try:
        return future.result()
    except CancelledError:
        raise InfrastructureError(_CLOSED) from None


async def arun(sandbox: Sandbox, jobs: Iterable[Job]) -> list[ExecutionReport]:
    """The reports of the jobs, in order. Cancelling kills the running programs."""
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(job: Job) -> ExecutionReport:
        async with room:
            future = sandbox.submit(job)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and not task.cancelling():  # it was the sandbox, and nobody here
                    raise InfrastructureError(_CLOSED) from None
                raise

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(job)) for job in jobs]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # as in `run`: one job's failure is the failure of all
    return [task.result() for task in tasks]
