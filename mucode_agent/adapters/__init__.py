"""The solver and the sandbox inside other tools. Each adapter is one file with its own extra."""

import asyncio
import importlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from mucode_agent.types import ProblemError

T = TypeVar("T")


def need(what: str, modules: Sequence[str], extra: str) -> None:
    """Raises ProblemError with the install line if a package that `what` needs is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ProblemError(f"{what} needs {error.name or module}: pip install 'mucode-agent[{extra}]'") from error


async def apart(call: Coroutine[Any, Any, T]) -> T:
    """The call in a separate task, cancelled only once.

    Hosts that use anyio cancel at every step until a task has ended. That would also cancel LangGraph's clean-up, and
    leave programs running.
    """
    task = asyncio.create_task(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        raise
