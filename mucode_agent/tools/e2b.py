"""E2B's remote sandboxes: micro virtual machines that are rented by the second.

The runner judges inside the virtual machine. It is started by `commands.run`, never by `run_code`, in which programs
would share a kernel. Each virtual machine serves many programs; the runner separates them.

Limits and prices as documented by E2B in November 2026: 20 virtual machines at a time and one new one a second for a
free account; $0.000014 per vCPU and second, $0.0000045 per GiB of memory and second.
"""

import contextlib
import hashlib
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from mucode_agent.tools.remote import MachineError, RemoteSandbox, runner_command, runner_files
from mucode_agent.types import ProblemError, Record

LOG = logging.getLogger(__name__)

DOLLARS_PER_CPU_S = 0.000014
DOLLARS_PER_GIB_S = 0.0000045
_HOME = "mucode"
_LAYER = "microVM"
_GRACE_S = 30.0
_LIFE_MARGIN_S = 120.0
_TAG = "mucode_agent"
_TRANSIENT_STATUS = {408, 409, 425, 429}


class E2BUsage(Record):
    """What a sandbox has used so far."""

    machines: int = 0
    """Virtual machines created."""
    seconds: float = 0.0
    """Sum of their life times, measured on this machine."""
    dollars: float = 0.0
    """`seconds` at the documented price of each machine's size, without credits and plans."""


class E2BSandbox(RemoteSandbox):
    """Up to `machines` virtual machines of E2B, without internet access, reused from batch to batch.

    A machine is created when there is work. It is killed when idle for `idle_s`, after `jobs_per_machine` programs,
    before `machine_s` of age, after any unexpected answer, and by `close`, which also runs when the interpreter exits.
    A client that is killed with SIGKILL leaves machines running; E2B ends them at their time-out, or the next client on
    the same host does earlier.
    """

    def __init__(
        self,
        *,
        machines: int = 2,
        template: str | None = None,
        api_key: str | None = None,
        creations_per_s: float = 1.0,
        batch: int = 64,
        jobs_per_machine: int = 2000,
        machine_s: float = 3000.0,
        idle_s: float = 60.0,
        backoff_s: float = 1.0,
        **client: Any,
    ) -> None:
        """`client` has further options of E2B's client (`domain`, `proxy`, `request_timeout`, …).

        Raises ProblemError without a key, `api_key` or E2B_API_KEY, or without the packages of the extra `e2b`.
        """
        self._api: dict[str, Any] = {"api_key": api_key or os.environ.get("E2B_API_KEY"), **client}
        if not self._api["api_key"]:
            raise ProblemError(
                "the sandbox e2b needs a key: set E2B_API_KEY (from https://e2b.dev/dashboard), or use --sandbox local"
            )
        self._class = _sandbox_class()
        self._template = template
        self._pace = _Pace(1 / creations_per_s)
        self._life_s = machine_s + 600.0  # within the hour that a free account gets
        self._meter = _Meter()
        self._tags = {_TAG: "1", "owner": uuid.uuid4().hex, "host": _host(), "process": str(os.getpid())}
        self._swept = False
        self._lost = False
        super().__init__(
            self._create,
            layer=_LAYER,
            machines=machines,
            batch=batch,
            jobs_per_machine=jobs_per_machine,
            machine_s=machine_s,
            idle_s=idle_s,
            backoff_s=backoff_s,
        )

    @property
    def usage(self) -> E2BUsage:
        return self._meter.usage()

    @property
    def cost(self) -> str:
        """The usage in words."""
        usage = self.usage
        return f"E2B: {usage.machines} machines, {usage.seconds:.0f} s, about ${usage.dollars:.4f} at list price"

    def close(self) -> None:
        """Kill every virtual machine, and log their cost."""
        if self.closed:
            return
        super().close()
        if self._lost:
            self._end_others(lambda tags: tags.get("owner") == self._tags["owner"])
        if self.usage.machines:
            LOG.info(self.cost)

    def _create(self) -> "_VirtualMachine":
        self._pace.wait()
        if not self._swept:
            self._swept = True
            self._end_others(self._is_orphan)
        try:
            with _errors("create a virtual machine"):
                machine = self._class.create(
                    template=self._template,
                    timeout=math.ceil(_LIFE_MARGIN_S + _GRACE_S),
                    metadata=self._tags,
                    allow_internet_access=False,
                    lifecycle={"on_timeout": "kill"},
                    idempotency_key=str(uuid.uuid4()),
                    **self._api,
                )
        except MachineError as error:
            if isinstance(error.__cause__, Exception) and (refusal := _refusal(error.__cause__)):
                raise refusal from error
            self._lost = True  # it may exist all the same
            raise
        opened = _VirtualMachine(machine, self._meter, self._life_s)
        try:
            opened.set_up()
        except MachineError:
            opened.close()
            raise
        return opened

    def _is_orphan(self, tags: dict[str, str]) -> bool:
        """Whether it was created by a process of this host that has ended."""
        process = tags.get("process", "")
        return tags.get("host") == self._tags["host"] and process.isdigit() and not _is_alive(int(process))

    def _end_others(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Kill our virtual machines that no process uses. Best effort: their time-out ends them too."""
        with contextlib.suppress(MachineError), _errors("list virtual machines"):
            pages = self._class.list(query=_query({_TAG: "1"}), **self._api)
            while pages.has_next:
                for info in pages.next_items():
                    if wanted(info.metadata or {}):
                        self._class.kill(info.sandbox_id, **self._api)


class _VirtualMachine:
    """One virtual machine of E2B with the runner in root's home."""

    def __init__(self, sandbox: Any, meter: "_Meter", life_s: float) -> None:
        self._sandbox = sandbox
        self._life_s = life_s
        self._born = time.monotonic()
        self._meter = meter
        self._meter.opened(sandbox.sandbox_id)
        self._lock = threading.Lock()
        self._closed = False

    def set_up(self) -> None:
        with _errors("set up a virtual machine"):
            info = self._sandbox.get_info()
            self._meter.sized(self._sandbox.sandbox_id, info.cpu_count, info.memory_mb)
            files = [{"path": f"{_HOME}/runner/{name}", "data": data} for name, data in runner_files().items()]
            self._sandbox.files.write_files(files, user="root")
            self._sandbox.commands.run(f"chmod 700 {_HOME}", user="root", timeout=_GRACE_S)

    def judge(self, jobs: bytes, nonce: str, time_s: float) -> str:
        path = f"{_HOME}/{nonce}.json"
        with _errors("judge a batch"):
            most_s = self._life_s - (time.monotonic() - self._born)
            life_s = min(time_s + _GRACE_S + _LIFE_MARGIN_S, most_s)
            self._sandbox.set_timeout(math.ceil(life_s))  # else a reused machine ends in the middle of a batch
            self._sandbox.files.write(path, jobs, user="root")
            command = runner_command(f"{_HOME}/runner", path, nonce, time_s)
            return str(self._sandbox.commands.run(command, user="root", timeout=time_s + _GRACE_S).stdout)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            with _errors("kill a virtual machine"):
                self._sandbox.kill()
        except MachineError as error:
            LOG.warning("%s; E2B ends it at its time-out", error)
        self._meter.closed(self._sandbox.sandbox_id)


class _Meter:
    """Life times and sizes of virtual machines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._prices: dict[str, float] = {}

    def opened(self, name: str) -> None:
        with self._lock:
            self._starts[name] = time.monotonic()
            self._prices[name] = _price(2, 512)

    def sized(self, name: str, cpus: int, memory_mb: int) -> None:
        with self._lock:
            self._prices[name] = _price(cpus, memory_mb)

    def closed(self, name: str) -> None:
        with self._lock:
            self._ends[name] = time.monotonic()

    def usage(self) -> E2BUsage:
        with self._lock:
            now = time.monotonic()
            seconds = {name: self._ends.get(name, now) - start for name, start in self._starts.items()}
            dollars = sum(self._prices[name] * lasted for name, lasted in seconds.items())
        return E2BUsage(machines=len(seconds), seconds=sum(seconds.values()), dollars=dollars)


class _Pace:
    """Lets one caller through per interval."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self._interval_s
        time.sleep(turn - now)


@contextlib.contextmanager
def _errors(doing: str) -> Iterator[None]:
    """The client's exceptions as MachineError. It also raises bare Exception, httpx's and its transport's errors."""
    try:
        yield
    except Exception as error:
        raise MachineError(f"E2B failed to {doing}: {type(error).__name__}: {_first_line(error)}") from error


def _refusal(error: Exception) -> ProblemError | None:
    """The ProblemError if a retry cannot help, because E2B refuses to create any machine."""
    from e2b import exceptions

    if isinstance(error, exceptions.AuthenticationException):
        return ProblemError(f"E2B refused the key: {_first_line(error)}; check E2B_API_KEY")
    status = getattr(error, "status_code", None) or 0
    if 400 <= status < 500 and status not in _TRANSIENT_STATUS:
        return ProblemError(f"E2B refused to create a virtual machine: {_first_line(error)}; check template and plan")
    return None


def _sandbox_class() -> Any:
    try:
        from e2b_code_interpreter import Sandbox
    except ImportError:
        raise ProblemError("the sandbox e2b needs more packages: pip install 'mucode-agent[e2b]'") from None
    return Sandbox


def _query(metadata: dict[str, str]) -> Any:
    from e2b import SandboxQuery

    return SandboxQuery(metadata=metadata)


def _price(cpus: int, memory_mb: int) -> float:
    """Dollars per second."""
    return cpus * DOLLARS_PER_CPU_S + memory_mb / 1024 * DOLLARS_PER_GIB_S


def _host() -> str:
    return hashlib.sha256(f"{socket.gethostname()}{uuid.getnode()}".encode()).hexdigest()[:16]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0][:300]
