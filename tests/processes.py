"""The processes below a process, read from /proc while threads and processes come and go."""

import contextlib
import os
from pathlib import Path


def children(pid: int) -> list[int]:
    """Direct children of any thread of the process."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    return [below for child in children(pid) for below in (child, *descendants(child))]


def fork_servers(pid: int) -> set[int]:
    """The sandbox's fork servers below a process, and what is below them."""
    found: set[int] = set()
    for child in children(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"zygote" in Path(f"/proc/{child}/cmdline").read_bytes():
                found |= {child} | fork_servers(child)
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still exist."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def busy_programs(pid: int) -> set[int]:
    """The sandbox's programs below a process that have computed for a while: endless ones, in these tests."""
    found = set()
    for below in descendants(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            named, _, counts = Path(f"/proc/{below}/stat").read_text().rpartition(")")
            user, system = map(int, counts.split()[11:13])
            if named.endswith("(mucode-candidat") and user + system > os.sysconf("SC_CLK_TCK") / 5:
                found.add(below)
    return found
