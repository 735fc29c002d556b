"""Runs programs on this machine, confined by its kernel: no Docker, no root, no API key.

Covered: forged verdicts, the file system, the network, other processes, the environment, time, memory, output and disk.
Not covered: kernel bugs, timing side channels, and, without namespaces, reading the metadata of files. docs/sandbox.md
describes the layers.
"""

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Literal

from mucode_agent.tools.runner.confine import STRONG
from mucode_agent.tools.runner.pool import Broken, Pool
from mucode_agent.types import ExecutionReport, InfrastructureError, Job

Require = Literal["any", "strong"]


class WeakIsolationWarning(UserWarning):
    """Programs run with fewer isolation layers than this package can use."""


class LocalSandbox:
    """A pool of warm, confined interpreters, one program at a time on each of `workers` (default: the processors).

    Nothing starts before the first `submit`, which waits for the first interpreter. `preload` names modules, such as
    numpy, that are imported once and that programs may then import at no cost. `require="strong"` raises
    InfrastructureError if a layer of `STRONG` is missing; "any" warns instead. At most `pending` jobs wait: beyond that
    `submit` blocks until one ends, except in a done callback. `layers` are used if the host supports them. Safe to
    share between threads and event loops; a forked process gets its own pool.
    """

    def __init__(
        self,
        workers: int | None = None,
        preload: Sequence[str] = (),
        require: Require = "any",
        pending: int | None = None,
        layers: Sequence[str] = STRONG,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}: leave it out for one per processor")
        if require not in ("any", "strong"):
            raise ValueError(f"require must be 'any' or 'strong', got {require!r}")
        self._workers = workers
        self._preload = tuple(preload)
        self._require = require
        self._pending = pending
        self._layers = tuple(layers)
        self._lock = threading.Lock()
        self._pool: Pool[ExecutionReport] | None = None
        self._process = 0
        self._isolation = ""
        self._closed = False
        self._end: weakref.finalize[..., LocalSandbox] | None = None

    @property
    def isolation(self) -> str:
        """The isolation layers of its programs, joined by `+`. Starts the interpreters."""
        self._started()
        return self._isolation

    def submit(self, job: Job) -> Future[ExecutionReport]:
        """Judge one program. Cancelling the future kills it."""
        future = self._started().submit(job.model_dump())
        future.add_done_callback(_Hold(self))
        return future

    def close(self) -> None:
        """End every process; unfinished jobs are cancelled. Garbage collection closes a sandbox too."""
        with self._lock:
            if self._end is not None:
                self._end.detach()
            self._closed = True
            if self._pool is not None and self._process == os.getpid():
                self._pool.close()
            self._pool = None

    def _started(self) -> Pool[ExecutionReport]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed: create a new one")
            if self._pool is None or self._process != os.getpid():
                self._start()
            assert self._pool is not None
            return self._pool

    def _start(self) -> None:
        if not (sys.platform.startswith("linux") or sys.platform == "darwin"):
            raise InfrastructureError(f"no local sandbox on {sys.platform}: use WSL or the E2B sandbox")
        pool: Pool[ExecutionReport] = Pool(
            self._workers,
            preload=self._preload,
            pending=self._pending,
            decode=ExecutionReport.model_validate,
            layers=self._layers,
        )
        try:
            names, missing = pool.layers()
        except (Broken, OSError) as error:
            pool.close()
            raise InfrastructureError(f"the local sandbox did not start: {error}") from error
        weak = [layer for layer in STRONG if layer not in names]
        if weak:
            reasons = "; ".join(f"{layer}: {missing.get(layer, 'not available')}" for layer in weak)
            if self._require == "strong":
                pool.close()
                raise InfrastructureError(
                    f"strong isolation needs {', '.join(weak)}, which this host does not support ({reasons}); "
                    "run `python -m mucode_agent doctor`, use the E2B sandbox, or allow weaker isolation"
                )
            warnings.warn(
                f"programs run without {', '.join(weak)} ({reasons}): see `python -m mucode_agent doctor`",
                WeakIsolationWarning,
                stacklevel=4,
            )
        self._isolation = "+".join(names)
        self._pool, self._process = pool, os.getpid()
        self._end = weakref.finalize(self, _close_later, pool, os.getpid())
        self._end.atexit = False

    def __getstate__(self) -> dict[str, Any]:
        state = {"_workers": self._workers, "_preload": self._preload, "_require": self._require}
        return {**state, "_pending": self._pending, "_layers": self._layers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values = (state[name] for name in ("_workers", "_preload", "_require", "_pending", "_layers"))
        self.__init__(*values)  # type: ignore[misc]


class _Hold:
    """Keeps a sandbox without other references alive until its job is done."""

    def __init__(self, sandbox: LocalSandbox) -> None:
        self.sandbox: LocalSandbox | None = sandbox

    def __call__(self, _: "Future[ExecutionReport]") -> None:
        self.sandbox = None


def _close_later(pool: "Pool[ExecutionReport]", process: int) -> None:
    """Ends the pool of a garbage-collected sandbox, in another thread: the collector's must not wait for processes."""
    if process == os.getpid():
        threading.Thread(target=pool.close, name="mucode-sandbox-end", daemon=True).start()
