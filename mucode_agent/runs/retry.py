"""Retries in a run: a failure of model, sandbox or verifier is reported and retried with pauses, up to a limit."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mucode_agent.files import DiskError
from mucode_agent.types import InfrastructureError, ProblemError, Record, Sample

ATTEMPTS = 4
"""How often model, sandbox or verifier may fail on a problem, while others succeed, before it is given up."""

LONGEST_PAUSE_S = 15.0

T = TypeVar("T")


class Failure(Record):
    """A problem that was given up, and why."""

    problem_id: str
    cause: str
    mistake: bool = False
    """A retry cannot help: the problem, model, sandbox or verifier cannot be used."""


def unfinished(failures: Sequence[Failure], total: int, summary: str) -> ProblemError | InfrastructureError:
    """The error of a run that gave up `failures` of its `total` problems; `summary` is its text."""
    if len(failures) == total and all(failure.mistake for failure in failures):
        return ProblemError(failures[0].cause if len({failure.cause for failure in failures}) == 1 else summary)
    return InfrastructureError(f"{summary}; run the same command to try them again")


class ProgressListener(Protocol):
    """Receives the progress of a run."""

    def drawn(self, samples: Sequence[Sample]) -> None:
        """New completions; those of an earlier start do not count."""
        ...

    def finished(self, problem_id: str, outcomes: dict[str, float]) -> None:
        """A problem is done; `outcomes` has the share of right answers by arm, or is empty if it is unknown here."""
        ...

    def waiting(self, cause: str, seconds: float) -> None:
        """Something failed, and will be retried after a pause."""
        ...


class RetryPolicy:
    """How failures that no problem causes are retried, and when they end the run."""

    def __init__(self, seconds: float, watch: ProgressListener, directory: Path) -> None:
        """`seconds` without any success end the run; `directory` holds everything finished."""
        self._seconds, self._watch, self._directory = seconds, watch, directory
        self._last_success = time.monotonic()

    def succeeded(self) -> None:
        """Reports a success: a completion was drawn, or a problem finished."""
        self._last_success = time.monotonic()

    async def attempt(self, problem_id: str, work: Callable[[], Awaitable[T]]) -> T | Failure:
        """The result of `work`, retried if model, sandbox or verifier fails; `work` keeps what it has done.

        A problem that cannot be used, or that failed ATTEMPTS times while others succeeded, gives a `Failure`. Raises
        InfrastructureError if nothing has worked for longer than the retry policy allows, or if the disk fails.
        """
        attempts, failures, failed_at = 0, 0, -math.inf
        while True:
            try:
                return await work()
            except DiskError:
                raise
            except ProblemError as error:
                return Failure(problem_id=problem_id, cause=str(error), mistake=True)
            except InfrastructureError as error:
                attempts += self._last_success > failed_at  # while nothing works at all, it is not this problem's fault
                failures, failed_at = failures + 1, time.monotonic()
                if attempts > ATTEMPTS:
                    return Failure(problem_id=problem_id, cause=str(error))
                await self._back_off(error, failures)

    async def _back_off(self, error: InfrastructureError, failures: int) -> None:
        """Waits a little, or raises when nothing has worked for longer than the retry policy allows."""
        if time.monotonic() - self._last_success >= self._seconds:
            raise InfrastructureError(
                f"{error}. Everything finished is saved in {self._directory}; run the same command to continue"
            ) from error
        pause = min(LONGEST_PAUSE_S, 0.25 * 2.0**failures, self._seconds)
        self._watch.waiting(str(error), pause)
        await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def own_connections(model: Any) -> AsyncIterator[Any]:
    """The model with connections of this event loop, closed with it.

    langchain-openai shares one client among all loops of a process. Without this, connections of an ended loop would
    stay open and be used by the next loop.
    """
    root = getattr(model, "root_async_client", None)
    if root is None:
        yield model
        return
    from openai import DefaultAsyncHttpxClient

    async with DefaultAsyncHttpxClient(timeout=root.timeout) as connections:
        own = root.with_options(http_client=connections)
        yield model.model_copy(update={"root_async_client": own, "async_client": own.chat.completions})
