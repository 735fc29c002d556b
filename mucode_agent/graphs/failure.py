"""What becomes of a solve when a model, sandbox or verifier fails: the best so far is never lost."""

import contextlib
from collections.abc import Iterator

from langgraph.errors import GraphBubbleUp

from mucode_agent.types import InfrastructureError, MucodeError


@contextlib.contextmanager
def blamed(who: str) -> Iterator[None]:
    """Whatever somebody's sandbox or verifier raises says that it failed, and may work when it is tried again."""
    try:
        yield
    except (MucodeError, GraphBubbleUp):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise InfrastructureError(
            f"{who} failed ({type(error).__name__}: {said}): look at the error that this one names as its cause"
        ) from error
