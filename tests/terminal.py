"""A command at a terminal, as a person starts it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def at_terminal(command: Sequence[object], environment: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """The exit code, and all that was written to the terminal: with its control sequences, without its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    seen = {**environment, "TERM": "xterm"}
    with subprocess.Popen(list(map(str, command)), stdin=theirs, stdout=theirs, stderr=theirs, env=seen) as run:
        os.close(theirs)
        written = b""
        while part := _read(ours):
            written += part
        os.close(ours)
    return run.returncode, _COLOUR.sub("", written.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last process that had it open has ended
        return b""
