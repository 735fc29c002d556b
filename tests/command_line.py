"""The command line, called in this process."""

import signal
import sys

import pytest

from mucode_agent.cli.app import main


def mucode(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of the command with these arguments."""
    monkeypatch.setattr(sys, "argv", ["mucode_agent", *map(str, arguments)])
    previous = signal.getsignal(signal.SIGTERM)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0
