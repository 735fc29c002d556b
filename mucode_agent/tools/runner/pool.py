"""Runs jobs on fork servers: one thread and one server per worker, a bounded queue, retries, cancellation."""

import atexit
import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from . import codec

T = TypeVar("T")
Report = dict[str, Any]

JUDGES = 8
"""Judges that a worker keeps beside the shared one, each for a suite of tests that no other may share."""
_SUITES = 512
"""Suites that a shared judge keeps compiled."""
_REMEMBERED = 4096
_SHARED = ""
"""The name of the shared judge; the others go by their suites."""
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP})
_RETRIES = 2
_START_S = 60
_JOBS_PER_SERVER = 5000
_LAYERS = ("namespaces", "landlock", "seccomp", "rlimits")
_DEFAULTS = {"time_s": 5.0, "memory_mb": 512, "output_kb": 256, "file_mb": 16}


_BOOT = """
import importlib, os, sys
os.register_at_fork = lambda **_: None  # every child would pay for new seeds and locks that it does not need
home = sys.argv.pop(1)
sys.path.insert(0, home)
zygote = importlib.import_module(sys.argv.pop(1) + ".zygote")
sys.path.remove(home)
zygote.main()
"""


class Broken(Exception):  # noqa: N818 - what happened, not whose mistake it is
    """The machinery failed; it says nothing about the program."""


class Pool(Generic[T]):
    """A bounded queue in front of `workers` fork servers, which start on the first submit.

    `submit` returns at once unless `pending` jobs wait already; then it blocks until one of them ends. Cancelling a
    future kills its program. `decode` turns the report, a plain dict, into the future's value.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        preload: Sequence[str] = (),
        pending: int | None = None,
        decode: Callable[[Report], T] | None = None,
        layers: Sequence[str] = ("namespaces", "landlock", "seccomp"),
    ) -> None:
        self.workers = workers or _processors()
        self._settings = _Settings(tuple(preload), tuple(layers))
        self._decode: Callable[[Report], Any] = decode or (lambda report: report)
        self._room = threading.BoundedSemaphore(pending or max(64 * self.workers, 256))
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, job: dict[str, Any]) -> "Future[T]":
        """Judge a job, the JSON form of `mucode_agent.types.Job`. The future's value is its report."""
        self.start()
        task = _Task(job, self._decode, self._room)
        if threading.current_thread() not in [worker.thread for worker in self._workers]:
            self._room.acquire()
            task.holds_room = True
        with self._lock:
            if self._closed:
                task.release()
                raise RuntimeError("the sandbox is closed: make a new one")
            self._queue.put(task)
        return task.future

    def start(self) -> None:
        """Start the workers' threads; their servers follow at once."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed: make a new one")
            if not self._workers:
                atexit.register(self.close)
                start = os.urandom(1)[0]  # other pools begin elsewhere
                self._workers = [_Worker(self._queue, self._settings, start + n) for n in range(self.workers)]
                for worker in self._workers:
                    worker.thread.start()

    def layers(self) -> tuple[list[str], dict[str, str]]:
        """The names of the layers that hold, and the reasons of those that are missing. Starts the workers."""
        self.start()
        return self._workers[0].layers()

    def close(self) -> None:
        """End every process; what is not done yet is cancelled."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            workers = self._workers
        atexit.unregister(self.close)
        for worker in workers:
            worker.stop()
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._queue.get_nowait()
                if task is not None:
                    task.cancel()
        for _ in workers:
            self._queue.put(None)
        for worker in workers:
            if worker.thread is not threading.current_thread():
                worker.thread.join()


class _Settings:
    """What a fork server is started with; shared, so that one refusal is learnt once."""

    def __init__(self, preload: tuple[str, ...], layers: tuple[str, ...]) -> None:
        self.preload = preload
        self.layers = layers
        self.why = "not asked for"


class _Task:
    """A job and its future, which stays pending while it runs so that it can be cancelled."""

    def __init__(self, job: dict[str, Any], decode: Callable[[Report], Any], room: threading.BoundedSemaphore) -> None:
        self.job = job
        self.future: Future[Any] = Future()
        self.holds_room = False
        self.wake: Callable[[], None] | None = None
        self._decode = decode
        self._room = room
        self.future.add_done_callback(self._done)

    def _done(self, future: "Future[Any]") -> None:
        wake = self.wake
        if future.cancelled() and wake is not None:
            wake()

    def finish(self, report: Report) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._decode(report))
            except Exception as error:  # noqa: BLE001 - a report that does not decode is the caller's to see
                self.future.set_exception(error)
        self.release()

    def cancel(self) -> None:
        self.future.cancel()
        self.future.set_running_or_notify_cancel()
        self.release()

    def release(self) -> None:
        if self.holds_room:
            self.holds_room = False
            self._room.release()


class _Worker:
    """A thread that owns one fork server and feeds it one job at a time."""

    def __init__(self, tasks: "queue.SimpleQueue[_Task | None]", settings: _Settings, place: int) -> None:
        self._tasks = tasks
        self._settings = settings
        self._place = place
        self._server: _Server | None = None
        self._stopping = False
        self._ready = threading.Event()
        self._layers: tuple[list[str], dict[str, str]] = ([], {})
        self._error: Exception | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.thread = threading.Thread(target=self._run, name="mucode-sandbox", daemon=True)

    def layers(self) -> tuple[list[str], dict[str, str]]:
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._layers

    def stop(self) -> None:
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        try:
            self._fresh_server()
        except Exception as error:  # noqa: BLE001 - told to whoever asks, and tried again for every job
            self._error = error
        self._ready.set()
        while not self._stopping and (task := self._tasks.get()) is not None:
            task.wake = self._wake
            if self._stopping or task.future.cancelled():
                task.cancel()
                continue
            report = self._attempts(task)
            if report is None:
                task.cancel()
            else:
                task.finish(report)
            task.wake = None
        self._close_server()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _attempts(self, task: _Task) -> Report | None:
        """The report, after at most two more attempts on fresh servers; None when the task was cancelled."""
        cause = ""
        for attempt in range(_RETRIES + 1):
            if attempt:
                self._place += 1  # another processor: this one may be where the program was starved
            try:
                server = self._server if attempt == 0 and self._server is not None else self._fresh_server()
                report = server.run(task.job, self._wake_read, lambda: self._stopping or task.future.cancelled())
            except (Broken, OSError, codec.Malformed) as error:
                cause = f"{error}"
                self._close_server()
                continue
            if report is None or report["status"] != "infra":
                if report is not None and server.jobs >= _JOBS_PER_SERVER:
                    self._close_server()
                return report
            cause = report["error"]
        return {"status": "infra", "error": f"the sandbox failed {_RETRIES + 1} times: {cause}"[:1000], "isolation": ""}

    def _fresh_server(self) -> "_Server":
        self._close_server()
        self._server = _Server(self._settings, self._place)
        self._layers = (self._server.layers, self._server.missing)
        return self._server

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


class _Judge:
    """The host's end of a judge: one suite's own, or the one that the suites share which cannot touch each other."""

    def __init__(self, pid: int, channel: socket.socket, *, alone: bool) -> None:
        self.pid = pid
        self.channel = channel
        self._alone = alone
        self._suites: OrderedDict[str, int] = OrderedDict()
        self._last = 0

    def message(self, key: str, suite: dict[str, Any], job: dict[str, Any]) -> bytes:
        """One job; its suite is defined when it is new, and the suite that was used longest ago is forgotten."""
        forget, define = [], {}
        if key in self._suites:
            self._suites.move_to_end(key)
        else:
            if len(self._suites) >= _SUITES:
                forget.append(self._suites.popitem(last=False)[1])
            self._last = self._suites[key] = self._last + 1
            define = {"define": suite}
        number = self._suites[key]
        return codec.pack({"suite": number, "alone": self._alone, "forget": forget, "job": job, **define})


class _Server:
    """The host's end of one fork server and of its judges."""

    def __init__(self, settings: _Settings, place: int) -> None:
        self.jobs = 0
        self._place = place
        self._judges: OrderedDict[str, _Judge] = OrderedDict()
        self._own: set[str] = set()
        ready = self._start(settings)
        if "failed" in ready and "namespaces" in settings.layers:
            settings.layers = tuple(layer for layer in settings.layers if layer != "namespaces")
            settings.why = str(ready["failed"])
            self.close()
            ready = self._start(settings)
        if "ready" not in ready:
            self.close()
            cause = ready.get("refused") or ready.get("failed") or "it ended without a word"
            raise Broken(f"the fork server did not start: {cause}")
        self.layers: list[str] = sorted(ready["ready"], key=_LAYERS.index)
        self.missing: dict[str, str] = ready["missing"]
        self.isolation = "+".join(self.layers)

    def _start(self, settings: _Settings) -> dict[str, Any]:
        here = os.path.dirname(os.path.abspath(__file__))
        package = os.path.basename(here)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, codec.PACKETS)
        config = {
            "namespaces": "namespaces" in settings.layers,
            "landlock": "landlock" in settings.layers,
            "seccomp": "seccomp" in settings.layers,
            "preload": settings.preload,
            "why": settings.why,
            "place": self._place,
        }
        command = [_interpreter(), "-s", "-S", "-P", "-c", _BOOT, os.path.dirname(here), package]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LD_BIND_NOW": "1"}
        if settings.preload:
            places = [os.path.realpath(path) for path in sys.path if os.path.isdir(path or ".")]
            environment["MUCODE_PATHS"] = json.dumps(places)
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno()), json.dumps(config)],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        self._control.settimeout(_START_S)
        try:
            return self._control_answer()
        except (Broken, OSError):
            return {}

    def run(self, job: dict[str, Any], wake: int, cancelled: Callable[[], bool]) -> Report | None:
        """The report of one job, or None when it was cancelled. Raises Broken."""
        self.jobs += 1
        limits = {**_DEFAULTS, **(job.get("limits") or {})}
        tests = [{"code": test} if isinstance(test, str) else test for test in job.get("tests") or []]
        suite = {"setup": job.get("setup", ""), "entry_point": job.get("entry_point"), "tests": tests}
        key = json.dumps(suite, sort_keys=True)
        work = {"code": job["code"], "limits": limits, "probes": list(job.get("probes") or [])}
        work["judge"] = job.get("judge", "apart")
        deadline = time.monotonic() + 2 * (len(tests) + 1) * 4 * (2 * limits["time_s"] + 1) + 60
        report: Report | None = {"status": "refused"}
        alone = key in self._own and (work["judge"] == "apart" or bool(work["probes"]))
        for name in (key,) if alone else (_SHARED, key):
            judge = self._judge(name)
            try:
                report = self._exchange(judge, judge.message(key, suite, work), deadline, wake, cancelled)
            except (Broken, OSError):
                return self._without_judge(self._end_judge(name, grace=True), len(tests))
            if report is None or report.pop("grown"):
                self._end_judge(name)
            if report is None:
                return None
            if report["status"] != "refused":
                report["isolation"] = self.isolation
                break
            if len(self._own) >= _REMEMBERED:
                self._own.clear()
            self._own.add(key)
        return report

    def _exchange(
        self, judge: _Judge, message: bytes, deadline: float, wake: int, cancelled: Callable[[], bool]
    ) -> Report | None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        poll.register(judge.channel, select.POLLOUT)
        view, buffer, size = memoryview(message), bytearray(), codec.HEADER.size
        while len(buffer) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Broken("the judge did not answer in time")
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                    if cancelled():
                        return None
                elif view:
                    view = view[judge.channel.send(view) :]
                    if not view:
                        poll.modify(judge.channel, select.POLLIN)
                else:
                    part = judge.channel.recv(1 << 16)
                    if not part:
                        raise Broken("the judge is gone")
                    buffer += part
                    if size == codec.HEADER.size and len(buffer) >= size:
                        size += codec.HEADER.unpack_from(buffer)[0]
        report: Report = codec.unpack(buffer[codec.HEADER.size :])
        return report

    def _without_judge(self, end: dict[str, Any], tests: int) -> Report:
        """The report where the judge ended in the middle. Raises Broken where neither test nor value can have done it.

        An exit code, 0 included, is the test's doing, and a crash that of the test or of a value.
        """
        status = end["status"]
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if (
            end["killed"]
            or (number and number != signal.SIGXCPU and number not in _CRASHES)
            or status >> 8 == codec.FAILED
        ):
            raise Broken(f"the judge ended with wait status {status}")
        if number == signal.SIGXCPU:
            verdict, error = "timeout", "the test took too long to compare the program's values"
        elif number:
            verdict, error = "unjudged", f"the test and the program's values ended the judge by signal {number}"
        else:
            verdict, error = "unjudged", f"the test ended its process with exit code {status >> 8}"
        first = {"status": verdict, "error": error, "by_program": verdict == "unjudged"}
        results = [first, *[{"status": "skipped"}] * (tests - 1)]
        return {"status": verdict, "results": results, "isolation": self.isolation}

    def _judge(self, name: str) -> _Judge:
        judge = self._judges.get(name)
        if judge is not None:
            self._judges.move_to_end(name)
            return judge
        while len(self._judges) > JUDGES:
            self._end_judge(next(name for name in self._judges if name != _SHARED))
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [codec.pack({"op": "judge"})], [theirs.fileno()])
            answer = self._control_answer()
        finally:
            theirs.close()
        if "pid" not in answer:
            raise Broken(str(answer.get("error")))
        judge = self._judges[name] = _Judge(answer["pid"], ours, alone=name != _SHARED)
        ours.setblocking(False)
        return judge

    def _end_judge(self, key: str, *, grace: bool = False) -> dict[str, Any]:
        """End a judge. With grace, one that is dying already may finish, so that its own end is seen."""
        judge = self._judges.pop(key)
        judge.channel.close()
        self._control.send(codec.pack({"op": "end", "pid": judge.pid, "grace": grace}))
        return self._control_answer()

    def _control_answer(self) -> dict[str, Any]:
        try:
            data = self._control.recv(1 << 16)
        except OSError as error:
            raise Broken(f"the fork server is gone: {error}") from None
        if not data:
            raise Broken("the fork server is gone")
        answer: dict[str, Any] = codec.unpack(data[codec.HEADER.size :])
        return answer

    def close(self) -> None:
        for judge in self._judges.values():
            judge.channel.close()
        self._judges.clear()
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it: children see no path of the environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
