"""Judges programs on remote machines: the runner is copied there once, jobs are sent in batches, reports come back.

The runner is the same as on this machine, so the verdicts are the same. A machine that is lost, slow or gives an
unreadable answer is given up, and its jobs run again on another, in smaller batches. So a job that crashes machines
fails alone. A job that cannot be judged at all is reported as `infra`.
"""

import atexit
import importlib.resources
import json
import math
import random
import secrets
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from pydantic import ValidationError

from mucode_agent.types import ExecutionReport, InfrastructureError, Job, MucodeError, ProblemError

ATTEMPTS = 3
"""Attempts per job, each on another machine; failures that other jobs of the batch caused do not count."""
_OPEN_ATTEMPTS = 6
_LONGEST_BACKOFF_S = 30.0
_BATCH_S = 600.0
"""Maximum worst-case seconds of the jobs of one batch, unless a single job needs more."""
_START_S = 60.0


class MachineError(MucodeError):
    """A machine could not be created, or was lost; another one may work."""


class Machine(Protocol):
    """A computer with Python 3.11 or newer and the runner."""

    def judge(self, jobs: bytes, nonce: str, time_s: float) -> str:
        """The runner's output for this file of jobs. Raises MachineError, at the latest soon after `time_s`."""
        ...

    def close(self) -> None:
        """Release the machine, from any thread; `judge` then fails. Never raises; may be called twice."""
        ...


class RemoteSandbox:
    """A pool of machines behind the Sandbox protocol: one thread and at most one machine per slot.

    Machines are opened when there is work, and closed when idle, used up or faulty. Cancelling a future drops its job;
    if every job of a batch is cancelled, its machine is closed.
    """

    def __init__(
        self,
        open_machine: Callable[[], Machine],
        *,
        layer: str,
        machines: int = 1,
        batch: int = 64,
        jobs_per_machine: int = 2000,
        machine_s: float = 3000.0,
        idle_s: float | None = 60.0,
        backoff_s: float = 1.0,
    ) -> None:
        """`open_machine` raises MachineError (retried, at first after `backoff_s`) or ProblemError (final).

        `layer` names the machine's own isolation; `isolation` begins with it.
        """
        if machines < 1 or batch < 1:
            raise ProblemError(f"machines and batch must be at least 1, got {machines} and {batch}")
        self._open_machine = open_machine
        self._layer = layer
        self._isolation = layer
        self._batch = batch
        self._jobs_per_machine = jobs_per_machine
        self._machine_s = machine_s
        self._idle_s = idle_s
        self._backoff_s = backoff_s
        self._queue: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._refusal: ProblemError | None = None
        self._room = threading.BoundedSemaphore(4 * machines * batch)
        self._places = [_Place(self) for _ in range(machines)]

    @property
    def isolation(self) -> str:
        """The isolation layers of the last batch; before the first one, only the machine's."""
        return self._isolation

    def submit(self, job: Job) -> Future[ExecutionReport]:
        """Blocks while several batches per machine wait. Raises ProblemError if machines are refused."""
        if self._refusal is not None:
            raise self._refusal
        task = _Task(job)
        if threading.current_thread() not in [place.thread for place in self._places]:
            self._room.acquire()
            task.future.add_done_callback(lambda _: self._room.release())
        with self._changed:
            if self._closed.is_set():
                task.future.cancel()
                raise RuntimeError("the sandbox is closed: create a new one")
            self._queue.append(task)
            self._changed.notify()
            starting = [place for place in self._places if place.thread.ident is None][:1]
            for place in starting:  # one more with each job, as long as slots are free
                atexit.register(self.close)
                place.thread.start()
        return task.future

    def close(self) -> None:
        """Close every machine; unfinished jobs are cancelled."""
        with self._changed:
            if self._closed.is_set():
                return
            self._closed.set()
            waiting = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        atexit.unregister(self.close)
        for task in waiting:
            task.cancel()
        for place in self._places:
            place.drop()
        for place in self._places:
            if place.thread.ident is not None and place.thread is not threading.current_thread():
                place.thread.join()

    # --- for the slots

    def wait(self, idle_s: float | None) -> bool:
        """True when there is work, False when the sandbox is closed or nothing came within `idle_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed.is_set(), idle_s)
            return bool(self._queue)

    def take(self) -> list["_Task"]:
        """A fair share of the queue, limited in number and in time; jobs that failed before go in smaller batches."""
        with self._changed:
            tasks: list[_Task] = []
            needed = 0.0
            share = math.ceil(len(self._queue) / len(self._places))
            while self._queue and len(tasks) < share:
                task = self._queue[0]
                needed += task.time_s
                together = task.attempts == tasks[0].attempts if tasks else True
                if tasks and (not together or needed > _BATCH_S or len(tasks) >= self._batch // 8**task.attempts):
                    break
                tasks.append(self._queue.popleft())
            return tasks

    def put_back(self, tasks: Sequence["_Task"]) -> None:
        with self._changed:
            if not self._closed.is_set():
                self._queue.extendleft(reversed(tasks))
                self._changed.notify_all()
                return
        for task in tasks:
            task.cancel()

    def open(self) -> Machine:
        """Raises MachineError, or ProblemError if a retry cannot help."""
        if self._refusal is not None:
            raise self._refusal
        try:
            return self._open_machine()
        except ProblemError as error:
            self._refusal = error
            raise

    def has_machine(self) -> bool:
        return any(place.has_machine for place in self._places)

    def back_off(self, attempt: int) -> None:
        delay = min(self._backoff_s * 2**attempt, _LONGEST_BACKOFF_S)
        self._closed.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def judge(self, machine: Machine, tasks: Sequence["_Task"]) -> list[ExecutionReport]:
        """Raises MachineError."""
        nonce = secrets.token_hex(16)
        time_s = _START_S + sum(task.time_s for task in tasks)
        jobs = json.dumps([task.job.model_dump() for task in tasks]).encode()
        reports = read_reports(machine.judge(jobs, nonce, time_s), nonce, len(tasks), self._layer)
        self._isolation = next((report.isolation for report in reports if report.isolation), self._isolation)
        return reports

    @property
    def idle_s(self) -> float | None:
        return self._idle_s

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def is_worn(self, jobs: int, age_s: float) -> bool:
        return jobs >= self._jobs_per_machine or age_s >= self._machine_s


class _Task:
    """A job and its future, which stays pending while the job runs, so it can be cancelled."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.future: Future[ExecutionReport] = Future()
        self.time_s = (len(job.tests) + 1) * (2 * job.limits.time_s + 1)
        """Seconds that the job may need in the worst case."""

        self.attempts = 0
        self._settled = False

    def finish(self, report: ExecutionReport) -> None:
        if self._settles():
            self.future.set_result(report)

    def fail(self, error: Exception) -> None:
        if isinstance(error, InfrastructureError):
            self.finish(ExecutionReport(status="infra", error=str(error)[:1000]))
        elif self._settles():
            self.future.set_exception(error)

    def cancel(self) -> None:
        self.future.cancel()
        self._settles()

    def _settles(self) -> bool:
        """Whether the outcome is still wanted. Only this notifies waiters of a cancelled future, and only once."""
        if self._settled:
            return False
        self._settled = True
        return self.future.set_running_or_notify_cancel()


class _Place:
    """A thread with at most one machine."""

    def __init__(self, sandbox: RemoteSandbox) -> None:
        self._sandbox = sandbox
        self._machine: Machine | None = None
        self._lock = threading.Lock()
        self._opened = 0.0
        self._jobs = 0
        self.thread = threading.Thread(target=self._serve, name="mucode-remote", daemon=True)

    def drop(self) -> None:
        """Close the machine, from any thread."""
        with self._lock:
            machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()

    @property
    def has_machine(self) -> bool:
        return self._machine is not None

    def _serve(self) -> None:
        failures = 0
        while not self._sandbox.closed:
            if not self._sandbox.wait(self._sandbox.idle_s if self._machine else None):
                self.drop()
                continue
            try:
                machine = self._ready()  # before a batch is taken, which grows meanwhile
            except ProblemError as error:
                self._give_up(self._sandbox.take(), error)
            except MachineError as error:
                failures += 1
                if failures < _OPEN_ATTEMPTS or self._sandbox.has_machine():  # the others do the work
                    self._sandbox.back_off(failures - 1)
                else:
                    cause = f"no machine could be opened in {failures} attempts: {error}"
                    self._give_up(self._sandbox.take(), InfrastructureError(cause))
            else:
                failures = 0
                self._run(machine, self._sandbox.take())
        self.drop()

    def _ready(self) -> Machine:
        with self._lock:
            machine = self._machine
        if machine is not None and not self._sandbox.is_worn(self._jobs, time.monotonic() - self._opened):
            return machine
        self.drop()
        machine = self._sandbox.open()
        with self._lock:
            self._machine, self._opened, self._jobs = machine, time.monotonic(), 0
        if self._sandbox.closed:  # between the two, `close` found no machine here
            self.drop()
        return machine

    def _run(self, machine: Machine, tasks: Sequence[_Task]) -> None:
        for task in tasks:
            if task.future.cancelled():
                task.cancel()
        tasks = [task for task in tasks if not task.future.cancelled()]
        if not tasks:
            return
        self._jobs += len(tasks)
        try:
            with _Watch(tasks, self.drop):
                reports = self._sandbox.judge(machine, tasks)
        except MachineError as error:
            self.drop()
            for task in tasks:
                task.attempts += 1
            cause = InfrastructureError(f"{ATTEMPTS} attempts on remote machines failed: {error}")
            self._give_up([task for task in tasks if task.attempts == ATTEMPTS], cause)
            self._sandbox.put_back([task for task in tasks if task.attempts < ATTEMPTS])
            if not all(task.future.cancelled() for task in tasks):
                self._sandbox.back_off(tasks[0].attempts - 1)
        else:
            for task, report in zip(tasks, reports, strict=True):
                task.finish(report)

    def _give_up(self, tasks: Sequence[_Task], error: Exception) -> None:
        for task in tasks:
            task.cancel() if self._sandbox.closed else task.fail(error)


class _Watch:
    """While it is open, `stop` is called once all tasks are cancelled."""

    def __init__(self, tasks: Sequence[_Task], stop: Callable[[], None]) -> None:
        self._tasks = tasks
        self._stop = stop
        self._open = False

    def __enter__(self) -> None:
        self._open = True
        for task in self._tasks:
            task.future.add_done_callback(self._look)

    def __exit__(self, *_: object) -> None:
        self._open = False

    def _look(self, _: object) -> None:
        if self._open and all(task.future.cancelled() for task in self._tasks):
            threading.Thread(
                target=self._stop, daemon=True
            ).start()  # the caller that cancels does not wait for the network


# --- the runner, elsewhere -----------------------------------------------------------------------------------------


def runner_files() -> dict[str, bytes]:
    """The runner's sources by file name: standard library only."""
    package = importlib.resources.files("mucode_agent.tools.runner")
    return {file.name: file.read_bytes() for file in package.iterdir() if file.name.endswith(".py")}


def runner_command(directory: str, jobs: str, nonce: str, time_s: float) -> str:
    """The shell command that judges the file `jobs` with the runner in `directory`, and removes the file.

    The machine itself ends it after `time_s`: a client that goes away does not end a command.
    """
    runner = shlex.quote(f"{directory}/remote.py")
    limit = f"timeout -s KILL {math.ceil(time_s)}"
    return (
        f"{limit} python3 -I -B {runner} {shlex.quote(jobs)} --nonce {nonce}; "
        f"status=$?; rm -f {shlex.quote(jobs)}; exit $status"
    )


def read_reports(printed: str, nonce: str, count: int, layer: str) -> list[ExecutionReport]:
    """The reports in the runner's line, which begins with the nonce. Raises MachineError."""
    line = next((line for line in printed.split("\n") if line.startswith(f"{nonce} ")), None)
    if line is None:
        raise MachineError("the runner gave no answer")
    try:
        reports = [ExecutionReport.model_validate(report) for report in json.loads(line[len(nonce) :])["reports"]]
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise MachineError(f"the runner's answer cannot be read: {type(error).__name__}") from error
    if len(reports) != count:
        raise MachineError(f"the runner gave {len(reports)} reports for {count} jobs")
    return [report.model_copy(update={"isolation": f"{layer}+{report.isolation}".rstrip("+")}) for report in reports]
