"""Failures of a model, sandbox or verifier in a solve: the best candidate so far is kept."""

import contextlib
from collections.abc import Iterator

from langgraph.errors import GraphBubbleUp

from mucode_agent.types import InfrastructureError, MucodeError


@contextlib.contextmanager
def blamed(who: str) -> Iterator[None]:
    """Turns any exception of a sandbox or verifier into an InfrastructureError, which may be retried."""
    try:
        yield
    except (MucodeError, GraphBubbleUp):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InfrastructureError(
            f"{who} failed ({type(error).__name__}: {said}): see the exception that is its cause"
        ) from error
