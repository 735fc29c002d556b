"""The solver and the sandbox inside what other people use. Each adapter is one file, with an extra of its own."""

import asyncio
import importlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from mucode_agent.types import ProblemError

T = TypeVar("T")


def need(what: str, modules: Sequence[str], extra: str) -> None:
    """Raises ProblemError with the install line where a package that `what` stands on is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ProblemError(f"{what} needs {error.name or module}: pip install 'mucode-agent[{extra}]'") from error


async def apart(call: Coroutine[Any, Any, T]) -> T:
    """The call in a task of its own, cancelled once.

    Hosts that cancel by anyio cancel again at every step until a task has ended. That would cancel LangGraph's own
    clean-up, and leave the programs running.
    """
    task = asyncio.create_task(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        raise
