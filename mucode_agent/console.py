"""Standard error, for people."""

import functools

from rich.console import Console


@functools.cache
def messages() -> Console:
    """Standard error, for lines that the terminal wraps.

    Every call returns the same console: lines, spinners and bars that are shown at once overwrite each other unless one
    console draws them.
    """
    return Console(stderr=True, highlight=False, soft_wrap=True)
