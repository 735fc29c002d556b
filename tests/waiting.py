"""Waiting until something is so, and failing with a word where it never is."""

import asyncio
import time
from collections.abc import Callable

STEP_S = 0.01


def until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Returns as soon as the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(STEP_S)


async def auntil(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """The same in an event loop, which goes on meanwhile."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        await asyncio.sleep(STEP_S)
