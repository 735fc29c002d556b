"""What a program is given when the machine keeps it from running: never a time-out for it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import fork_servers

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.runner import codec, judge, zygote
from mucode_agent.tools.runner.proxies import Conversation, Ended
from mucode_agent.types import Job, Limits

pytestmark = [
    pytest.mark.timing,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the clocks of Linux"),
]
LIMITS = {"time_s": 0.01, "memory_mb": 64, "output_kb": 16, "file_mb": 1}
SPAN_S = 2 * LIMITS["time_s"] + 1
"""Of wall time; there are three more for a program that is kept from running."""


class SlowServer:
    """A fork server whose candidate answers after some seconds. Each time it is asked about it, the kernel has counted
    `run` and `delay` more seconds.
    """

    def __init__(self, seconds: float, state: str, run: float, delay: float) -> None:
        self._state, self._run, self._delay = state, run, delay
        self._process = subprocess.Popen(["sleep", "60"])
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, codec.CHANNEL)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._ours.setsockopt(socket.SOL_SOCKET, option, zygote.LOOK)
        self._answer = threading.Timer(seconds, lambda: self._theirs.send(codec.pack({"ok": 5})))
        self._answer.start()
        self.base: dict[str, int] = {}
        self._asked = 0

    def fork(self, file_mb: int) -> tuple[int, socket.socket, list[int]]:
        del file_mb
        files = [os.memfd_create(name, os.MFD_ALLOW_SEALING) for name in ("in", "out", "err")]
        return self._process.pid, self._ours, files

    def schedule(self, pid: int) -> dict[str, object]:
        assert pid == self._process.pid
        self._asked += 1
        return {"state": self._state, "run": self._asked * self._run, "delay": self._asked * self._delay}

    def reap(self, pid: int, *, wait: bool) -> dict[str, object]:
        del pid, wait
        return {"status": 0, "killed": True, "cpu": 0.0, "rss_mb": 1.0}

    def close(self) -> None:
        self._answer.cancel()
        self._answer.join()
        self._process.kill()
        self._process.wait()
        self._theirs.close()


def ending(seconds: float, state: str, *, run: float = 0.0, delay: float = 0.0) -> object:
    """What a call ends with."""
    server = SlowServer(seconds, state, run, delay)
    conversation = Conversation(server, LIMITS, 1)
    try:
        return conversation.operate("call", "f")
    except Ended as ended:
        return ended.status
    finally:
        conversation.close()
        server.close()


def test_a_program_that_waits_is_a_timeout():
    assert ending(9.0, "S") == "timeout"


@pytest.mark.parametrize("state", ["R", "D", "T", "t"])
def test_a_program_that_is_kept_from_running_is_given_another_span(state):
    assert ending(1.5 * SPAN_S, state) == 5


def test_a_program_that_waited_for_the_processor_is_given_another_span():
    assert ending(1.5 * SPAN_S, "S", run=0.001, delay=0.08) == 5
    assert ending(1.5 * SPAN_S, "S", run=0.001, delay=0.01) == "timeout"


def test_a_program_that_never_runs_is_no_verdict():
    assert ending(99.0, "R") == "infra"


@pytest.mark.parametrize("state", ["R", "D"])
def test_a_program_that_runs_between_two_looks_and_is_ready_at_both_has_slept(state):
    assert ending(1.5 * SPAN_S, state, run=0.001) == "timeout"


def test_a_program_that_only_waits_for_the_disk_is_a_timeout_in_the_end():
    assert ending(99.0, "D") == "timeout"


@pytest.mark.parametrize(
    "wait",
    [
        "[t.start() for t in [Thread(target=burn) for _ in range(10)]]; time.sleep(60)",
        "while True: call(1); time.sleep(0.015)",
    ],
    ids=["for its own threads", "between callbacks"],
)
def test_a_program_that_makes_itself_wait_is_a_timeout(wait):
    code = f"""
import hashlib, time
from threading import Thread
def burn():
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 60_000)
def solve(call):
    {wait}
"""
    limits = Limits(time_s=1.0)
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        report = sandbox.submit(Job(code=code, tests=("assert solve(lambda n: n) == 2",), limits=limits)).result(100)
    assert report.status in ("timeout", "infra"), report  # `infra` only where the machine starves it as well
    assert report.wall_s < 60  # all four spans are 12 s; without a clock on what it does it went on for minutes


def test_a_wrong_answer_stands_whatever_the_machine_does_later():
    run = judge._Run(None, {"code": "", "limits": {}}, "", None)
    results = [{"status": "wrong_answer", "error": ""}, {"status": "infra", "error": "starved"}]
    assert run.report(results, "")["status"] == "wrong_answer"
    assert run.report([{"status": "passed"}, results[1]], "")["status"] == "infra"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="starves processes of another user")
def test_a_starved_program_is_no_timeout():
    sandbox = LocalSandbox(workers=1)
    others = fork_servers(os.getpid())
    hogs: list[subprocess.Popen[bytes]] = []
    try:
        assert sandbox.submit(Job(code="x = 1", tests=("assert x == 1",))).result(60).passed
        starved = {
            pid
            for pid in fork_servers(os.getpid()) - others
            if Path(f"/proc/{pid}/comm").read_text() == "mucode-candidat\n"
        }
        assert starved
        for pid in starved:
            os.setpriority(os.PRIO_PROCESS, pid, 19)
            with contextlib.suppress(OSError):  # where the kernel weighs sessions before processes
                Path(f"/proc/{pid}/autogroup").write_text("19")
            place = os.sched_getaffinity(pid)
        hog = [sys.executable, "-c", "while True: pass"]
        hogs += [subprocess.Popen(hog, start_new_session=True) for _ in range(6)]
        for process in hogs:
            os.sched_setaffinity(process.pid, place)
        count = "def f(n):\n    while n: n -= 1\n    return 2"
        job = Job(code=count, tests=("assert f(2_000_000) == 2",), limits=Limits(time_s=0.6))
        start = time.monotonic()
        report = sandbox.submit(job).result(300)
        assert report.status in ("passed", "infra"), report
        assert time.monotonic() - start > 2.2  # of wall time, which would have been a time-out
    finally:
        for process in hogs:
            process.kill()
            process.wait()
        sandbox.close()
