"""Code that waits, written once for threads and for event loops.

Such code is a coroutine that awaits `Call`s and other such coroutines, and nothing else. `in_thread` runs it where
waiting may block the thread, `in_loop` where it must not.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Steps = Coroutine["Call[Any]", Any, T]


class Call(Generic[T]):
    """A call of a function that has two forms: `block` returns the result, `wait` an awaitable of it."""

    def __init__(
        self, block: Callable[P, T], wait: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self.block = functools.partial(block, *args, **kwargs)
        self.wait = functools.partial(wait, *args, **kwargs)

    def __await__(self) -> Generator["Call[T]", T, T]:
        return (yield self)


def blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Call[T]:
    """A call of a function that has one form: in an event loop it is made in another thread."""

    async def wait(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    return Call(function, wait, *args, **kwargs)


def sleep(seconds: float) -> Call[None]:
    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    return Call(time.sleep, wait, seconds)


def in_thread(steps: Steps[T]) -> T:
    """The result of the coroutine, each of whose calls blocks."""
    step: Callable[[], Call[Any]] = functools.partial(steps.send, None)
    try:
        while True:
            call = step()
            try:
                step = functools.partial(steps.send, call.block())
            except BaseException as error:  # noqa: BLE001 - what a call raises is raised where it is awaited
                step = functools.partial(steps.throw, error)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        del step  # it may hold an error, whose traceback holds this frame


async def in_loop(steps: Steps[T]) -> T:
    """The result of the coroutine, each of whose calls is awaited."""
    step: Callable[[], Call[Any]] = functools.partial(steps.send, None)
    try:
        while True:
            call = step()
            try:
                step = functools.partial(steps.send, await call.wait())
            except BaseException as error:  # noqa: BLE001
                step = functools.partial(steps.throw, error)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        del step


def both_forms(function: Callable[P, Steps[T]]) -> tuple[Callable[P, T], Callable[P, Coroutine[Any, Any, T]]]:
    """A function that blocks and one for event loops, from one that makes a coroutine of calls."""

    @functools.wraps(function)
    def block(*args: P.args, **kwargs: P.kwargs) -> T:
        return in_thread(function(*args, **kwargs))

    @functools.wraps(function)
    async def wait(*args: P.args, **kwargs: P.kwargs) -> T:
        return await in_loop(function(*args, **kwargs))

    return block, wait


async def all_done(coroutines: Sequence[Awaitable[T]]) -> list[T]:
    """The results in order. If one raises, or at a cancellation, the others are ended first."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
