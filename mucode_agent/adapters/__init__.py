"""The solver and the sandbox inside what other people use. Each adapter is one file, with an extra of its own."""

import importlib
from collections.abc import Sequence

from mucode_agent.types import ProblemError


def need(what: str, modules: Sequence[str], extra: str) -> None:
    """Raises ProblemError with the install line where a package that `what` stands on is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ProblemError(f"{what} needs {error.name or module}: pip install 'mucode-agent[{extra}]'") from error
