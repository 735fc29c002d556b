"""Shared by every command: exit codes, and standard output that may be closed early."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable

import typer
from rich.console import Console

from mucode_agent.console import messages

SOLVED, NOT_SOLVED, BAD_INPUT, INFRASTRUCTURE, UNJUDGED, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 4, 130, 141
EXIT_CODES = {
    SOLVED: "solved",
    NOT_SOLVED: "not solved: prints the best candidate and what still fails",
    BAD_INPUT: "bad input: a file, field or option cannot be used",
    INFRASTRUCTURE: "a model, sandbox or verifier failed",
    UNJUDGED: "accepted, but the private tests cannot judge the answer",
    INTERRUPTED: "interrupted",
    READER_GONE: "standard output was closed early",
}


def progress() -> Console:
    """Standard error; if torchrun started several processes, only the first prints."""
    return messages() if rank() == 0 else Console(quiet=True)


def command_line(shown: Callable[[str], str] = str) -> str:
    """The command that is running, for a card or a configuration; `shown` changes each of its arguments."""
    return shlex.join(["python", "-m", "mucode_agent", *map(shown, sys.argv[1:])])


def rank() -> int:
    """The rank of this process among those that torchrun started; 0 without torchrun."""
    number = os.environ.get("RANK", "")
    return int(number) if number.isdecimal() else 0


def write_bytes(data: bytes) -> None:
    """Writes to standard output at once. Exits with READER_GONE if its reader has closed it."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        raise typer.Exit(READER_GONE) from None


def write_lines(lines: Iterable[str]) -> None:
    """Lines to standard output, as UTF-8."""
    write_bytes(b"".join(line.encode("utf-8", "backslashreplace") + b"\n" for line in lines))
