"""`execute`: one verdict per program of a JSONL file, in the order of the file, resumable.

The output always consists of whole lines in order, so a killed run continues after its last line. Each line identifies
its program by a digest, so a verdict is never used for another program or limit. The next run retries lines without a
verdict (`infra`).
"""

import contextlib
import itertools
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mucode_agent.evaluation.programs import Program
from mucode_agent.files import append_lines, lock_file, remedy, replacing
from mucode_agent.types import ExecutionReport, InfrastructureError, ProblemError, Sandbox

WINDOW = 512
"""Maximum programs that are running, or done and waiting for one before them."""
_GIVE_UP = 64
"""After this many programs in a row without a verdict, the sandbox counts as broken."""
_PASS_AT = (1, 10, 100)
_OPENING = b'{"name": '


# --- the flow ------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """The verdicts so far, and their rate."""

    rows: int = 0
    known: int = 0
    """Rows that an earlier run has written."""
    missing: int = 0
    """Rows without a verdict."""
    cause: str = ""
    """The error of the first row without a verdict."""
    statuses: Counter[str] = field(default_factory=Counter)
    tasks: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Statuses of completions, by problem."""
    judged: int = 0
    """Rows judged by this run."""
    together: int = 0
    """Verdicts of the second judge, which a program could have forged."""
    started: float = field(default_factory=time.monotonic)

    def add(self, program: Program, status: str, error: str = "") -> None:
        self.statuses[status] += 1
        self.together += program.job.judge == "together"
        if status == "infra":
            self.missing += 1
            self.cause = self.cause or error
        if program.task_id is not None:
            self.tasks[str(program.task_id)][status] += 1

    def forget(self, program: Program) -> None:
        """Uncounts a row without a verdict before it is retried."""
        self.statuses -= Counter({"infra": 1})
        self.together -= program.job.judge == "together"
        self.missing -= 1
        if program.task_id is not None:
            self.tasks[str(program.task_id)]["infra"] -= 1

    @property
    def rate(self) -> float:
        """Verdicts per second of this run."""
        return self.judged / max(time.monotonic() - self.started, 1e-9)

    def counts(self) -> str:
        return " · ".join(f"{count} {status}" for status, count in self.statuses.most_common())

    def summary(self) -> str:
        parts = [f"{self.rows} programs: {self.counts() or 'nothing to run'}"]
        if self.judged:
            parts.append(f"{self.rate:.0f} verdicts/s")
        if self.known:
            parts.append(f"{self.known} from an earlier run")
        if self.together:
            parts.append(f"{self.together} judged together")
        return "\n".join([" · ".join(parts), *self._pass_at_k()])

    def without_verdict(self) -> str:
        return (
            f"{self.missing} of {self.rows} programs have no verdict: {self.cause or 'the sandbox failed'}; "
            "run the same command again to retry only these"
        )

    def _pass_at_k(self) -> list[str]:
        from mucode_agent.metrics import pass_at_k

        judged = [(sum(task.values()) - task["infra"], task["passed"]) for task in self.tasks.values()]
        judged = [(samples, right) for samples, right in judged if samples]
        ks = [k for k in _PASS_AT if judged and all(samples >= k for samples, _ in judged)]
        figures = {k: sum(pass_at_k(right, samples, k) for samples, right in judged) / len(judged) for k in ks}
        if not figures:
            return []
        return [" · ".join(f"pass@{k} {value:.4f}" for k, value in figures.items()) + f" on {len(judged)} problems"]


def check(programs: Iterable[Program], known: Iterator[bytes]) -> Tally:
    """Reads every row, and the lines of an earlier run, before any program runs. Raises ProblemError."""
    tally = Tally()
    for program in programs:
        tally.rows += 1
        line = next(known, None)
        if line is None:
            continue
        verdict = _verdict(line, program)
        tally.known += 1
        tally.add(program, verdict["status"], str(verdict.get("error", "")))
    if next(known, None) is not None:
        raise ProblemError(f"the output holds more than the {tally.rows} verdicts of this input; give another --output")
    return tally


def judge(
    sandbox: Sandbox,
    programs: Iterable[Program],
    tally: Tally,
    show: Callable[[], None],
    known: Iterator[bytes] | None = None,
) -> Iterator[bytes]:
    """The lines of `programs` in order. With `known`, one line for each, only those without a verdict run.

    Raises InfrastructureError if the sandbox gives no verdict many times in a row.
    """
    pending: deque[tuple[Program, bytes | Future[ExecutionReport]]] = deque()
    failures = 0
    try:
        for program, line in zip(programs, known, strict=False) if known else zip(programs, itertools.repeat(None)):
            if line is not None and _verdict(line, program)["status"] != "infra":
                pending.append((program, line))
            else:
                if line is not None:
                    tally.forget(program)
                pending.append((program, sandbox.submit(program.job)))
            while pending and (len(pending) >= WINDOW or _is_done(pending[0][1])):
                line, failures = _line(*pending.popleft(), tally, failures)
                yield line
                show()
        while pending:
            line, failures = _line(*pending.popleft(), tally, failures)
            yield line
            show()
    finally:
        for _, work in pending:
            if isinstance(work, Future):
                work.cancel()


def verdict_line(program: Program, report: ExecutionReport) -> bytes:
    """One JSON object: name and status first, values that differ from run to run last."""
    found = report.model_dump(mode="json")
    measured = {key: found.pop(key) for key in ("time_s", "wall_s", "memory_mb")}
    row = {"name": program.name, "status": found.pop("status")}
    if program.task_id is not None:
        row |= {"task_id": program.task_id, "passed": report.passed}
    row |= {"program": program.digest, **found, **measured}
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _line(program: Program, work: bytes | Future[ExecutionReport], tally: Tally, failures: int) -> tuple[bytes, int]:
    if isinstance(work, bytes):
        return work, 0
    report = work.result()
    tally.judged += 1
    tally.add(program, report.status, report.error)
    if report.status != "infra":
        return verdict_line(program, report), 0
    if failures + 1 >= _GIVE_UP:
        raise InfrastructureError(
            f"{_GIVE_UP} programs in a row have no verdict: {report.error}; see `python -m mucode_agent doctor`, then "
            "run the same command again to continue"
        )
    return verdict_line(program, report), failures + 1


def _is_done(work: bytes | Future[ExecutionReport]) -> bool:
    return isinstance(work, bytes) or work.done()


def _verdict(line: bytes, program: Program) -> dict[str, Any]:
    """The verdict in a line of an earlier run. Raises ProblemError if it is not that of `program`."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or row.get("program") != program.digest or not isinstance(row.get("status"), str):
        raise ProblemError(
            f"the output holds something else than a verdict on {program.name!r} under these limits and packages; "
            "give another --output, or remove it to start again"
        )
    return row


# --- writing -------------------------------------------------------------------------------------------------------


class VerdictFile:
    """Verdict lines on disk, locked by one run at a time. An incomplete last line, of a killed run, is ignored."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator["VerdictFile"]:
        """Locks the file. Raises ProblemError."""
        if path.exists() and not path.is_file():
            raise ProblemError(f"cannot resume {path}, which is no plain file; leave out --output to print")
        with contextlib.ExitStack() as held:
            try:
                descriptor = held.enter_context(lock_file(path))
            except BlockingIOError:
                raise ProblemError(f"another run is writing {path}; wait for it, or give another --output") from None
            except OSError as error:
                raise ProblemError(f"cannot write {path}: {error.strerror}; give a writable --output") from None
            yield cls(path, descriptor)

    def lines(self) -> Iterator[bytes]:
        """Raises ProblemError if an incomplete last line is not the start of one of ours."""
        with self._path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line
                elif not line.startswith(_OPENING[: len(line)]):
                    raise ProblemError(f"{self._path} holds something else than verdicts; give another --output")

    def append(self, line: bytes) -> None:
        """Writes the line; only a crash of the machine may lose it."""
        try:
            append_lines(self._descriptor, line, sync=False)
        except OSError as error:
            raise self._refused(error) from error

    @contextlib.contextmanager
    def repaired(self, lines: Iterable[bytes]) -> Iterator["VerdictFile"]:
        """Replaces the file's lines by `lines`, atomically."""
        try:
            with replacing(self._path) as file:
                file.writelines(lines)
        except OSError as error:
            raise self._refused(error) from error
        with VerdictFile.open(self._path) as repaired:
            yield repaired

    def _refused(self, error: OSError) -> InfrastructureError:
        return InfrastructureError(
            f"cannot write {self._path}: {error.strerror}; {remedy(error)}, then run the same command again"
        )
