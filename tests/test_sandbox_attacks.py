"""No hostile program passes, and none does harm."""

import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attacks.programs import ATTACKS, BLAME, CALLS, FAILED, LIES, LIES_SET_UP, UNPRINT, Attack
from processes import fork_servers

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import Job, Judge, Limits, StdioTest

SECRET = "canary-7f3a9c"
LIMITS = Limits(time_s=0.4, memory_mb=96, output_kb=64, file_mb=4)
TESTS = ("assert solve(2) == 4", "assert abs(solve(3.0) - 9.0) < 1e-6", "assert solve('a') == ['expected']")


class Canaries:
    """A file, a process, a port and a secret that no program may touch."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "canary.txt"
        self.file.write_text(SECRET)
        self.file.chmod(0o644)
        self._was = self._state()
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]

    def _state(self) -> tuple[str, int, int]:
        stat = self.file.stat()
        return self.file.read_text(), stat.st_mode, stat.st_mtime_ns

    def check(self) -> None:
        assert self._state() == self._was
        assert self.process.poll() is None
        assert Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "SR"
        with pytest.raises(BlockingIOError):
            self.listener.accept()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.close()


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    canaries = Canaries(tmp_path_factory.mktemp("home"))
    yield canaries
    canaries.close()


@pytest.fixture(scope="module", autouse=True)
def secret():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MUCODE_SECRET", SECRET)
        yield


def test_there_are_programs_of_every_class():
    kinds = {attack.kind for attack in ATTACKS}
    assert kinds == {"exit", "value", "patch", "wire", "secret", "write", "network", "process", "resource"}
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}-{attack.name}")
def test_it_neither_passes_nor_harms(attack: Attack, sandbox: LocalSandbox, canaries: Canaries):
    code = attack.code
    for key, value in {"CANARY": canaries.file, "PID": canaries.process.pid, "PORT": canaries.port}.items():
        code = code.replace(f"{{{key}}}", str(value))
    report = sandbox.submit(Job(code=code, tests=TESTS, limits=LIMITS)).result(60)
    assert report.status in attack.verdicts, report
    assert SECRET not in report.model_dump_json()
    canaries.check()
    honest = sandbox.submit(Job(code="def solve(x):\n    return [] if x == 'a' else x * x", tests=TESTS[:2])).result(60)
    assert honest.passed, honest


@pytest.mark.parametrize(("code", "test"), LIES.values(), ids=LIES.keys())
def test_a_program_does_not_pass_by_what_it_says_of_its_values(code: str, test: str, sandbox: LocalSandbox):
    report = sandbox.submit(Job(code=code, tests=(test,), setup=LIES_SET_UP, limits=LIMITS)).result(60)
    assert report.status in FAILED, report


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are its own")
@pytest.mark.parametrize("judge", ["apart", "together"])
def test_the_kernel_refuses_what_is_no_programs_business(judge: Judge, sandbox: LocalSandbox):
    report = sandbox.submit(Job(code=CALLS, tests=("found = worked()\nassert found == []",), judge=judge)).result(60)
    assert CALLS.count("call(") > 50
    assert report.passed, report


@pytest.mark.parametrize("judge", ["apart", "together"])
@pytest.mark.parametrize("code", BLAME.values(), ids=BLAME.keys())
def test_a_program_does_not_put_the_blame_on_its_test(code: str, judge: Judge, sandbox: LocalSandbox):
    test = "from functools import partial\nassert f(partial(pow, 4)) == 4"
    report = sandbox.submit(Job(code=code, tests=(test,), setup="y = 1", judge=judge, limits=LIMITS)).result(60)
    assert report.status in FAILED, report
    assert not report.results[0].invalid_test
    report.model_dump_json()


@pytest.mark.parametrize("judge", ["apart", "together"])
def test_a_set_up_that_fails_alone_is_at_fault(judge: Judge, sandbox: LocalSandbox):
    job = Job(code="def f(x): return x", tests=("assert f(1) == 1",), setup="1 / 0", judge=judge)
    report = sandbox.submit(job).result(60)
    assert (report.status, report.results[0].invalid_test) == ("unjudged", True)


def test_a_set_up_that_fails_by_the_program_is_not(sandbox: LocalSandbox):
    job = Job(code="def g(): raise ValueError\ndef f(x): return x", tests=("assert f(1) == 1",), setup="g()")
    report = sandbox.submit(job).result(60)
    assert (report.status, report.results[0].invalid_test) == ("exception", False)


@pytest.mark.parametrize("trick", UNPRINT.values(), ids=UNPRINT.keys())
def test_what_is_printed_cannot_be_taken_back(trick: str, sandbox: LocalSandbox):
    before = "import ctypes, fcntl, mmap, os\nprint('wrong', flush=True)\n"
    code = f"{before}try:\n    {trick}\nexcept (OSError, ValueError): pass"
    report = sandbox.submit(Job(code=code, tests=(StdioTest(stdin="     ", stdout=""),))).result(60)
    assert report.status == "wrong_answer", report
    assert report.stdout.startswith("wrong")


def test_printed_text_comes_in_the_order_of_its_writing(sandbox: LocalSandbox):
    code = "import os, sys\nprint('a')\nsys.stdout.flush()\nos.write(1, b'b\\n')\nprint('c')\nos.write(2, b'e')"
    report = sandbox.submit(Job(code=code, tests=(StdioTest(stdin="", stdout="a\nb\nc"),))).result(60)
    assert report.passed, report
    assert report.stderr == "e"


def test_no_process_and_no_file_is_left(tmp_path):
    others = fork_servers(os.getpid())
    sandbox = LocalSandbox(workers=1)
    tests = ("assert solve(2) == 4",)
    for attack in ATTACKS:
        if attack.kind in ("process", "exit"):
            sandbox.submit(Job(code=attack.code, tests=tests, limits=LIMITS)).result(60)
    leave = (
        "import os\ndef solve(x):\n    os.makedirs('a/b'); open('a/b/c', 'w').write('x'); os.symlink('/', 'l')\n"
        "    return 4"
    )
    look = "def solve(x):\n    import os\n    return os.listdir('.')"
    assert sandbox.submit(Job(code=leave, tests=tests)).result(60).passed
    assert sandbox.submit(Job(code=look, tests=("assert solve(2) == []",))).result(60).passed
    children = fork_servers(os.getpid()) - others
    sandbox.close()
    assert children
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
