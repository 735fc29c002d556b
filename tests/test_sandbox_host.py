"""The local sandbox and its host: layers, death, descendants, retries, numpy, other users."""

import asyncio
import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import pytest
from processes import alive, busy_programs, fork_servers
from waiting import until

from mucode_agent.tools import doctor, runner
from mucode_agent.tools.local import LocalSandbox, WeakIsolationWarning
from mucode_agent.tools.runner.confine import STRONG
from mucode_agent.tools.runner.pool import Pool
from mucode_agent.tools.sandbox import arun, run
from mucode_agent.types import InfrastructureError, Job, Limits, StdioTest

RUNNER = Path(runner.__file__).parent
RIGHT = Job(code="def f(x): return x + 1", tests=("assert f(1) == 2",))
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it went with the server
            os.kill(pid, signal.SIGKILL)


@LINUX
def test_nothing_survives_a_killed_host():
    program = (
        "from mucode_agent.tools.local import LocalSandbox\nfrom mucode_agent.types import *\n"
        "s = LocalSandbox(workers=2)\n"
        "fs = [s.submit(Job(code='while True: pass', limits=Limits(time_s=999))) for _ in range(2)]\n"
        "fs[0].result()"
    )
    host = subprocess.Popen([sys.executable, "-c", program])
    until(lambda: len(busy_programs(host.pid)) == 2)
    below = fork_servers(host.pid)
    assert len(below) >= 4
    host.kill()
    host.wait()
    until(lambda: not alive(below))


@LINUX
def test_a_killed_host_leaves_no_scratch():
    program = (
        "from mucode_agent.tools.local import LocalSandbox\nfrom mucode_agent.types import *\n"
        "s = LocalSandbox(workers=1, layers=('rlimits',))\n"
        "where = Job(code='import os\\nprint(os.getcwd())', tests=(StdioTest(stdin='', stdout=''),))\n"
        "print(s.submit(where).result().stdout, end='', flush=True)\n"
        'busy = \'open("a", "w").write("x")\\nwhile True: pass\'\n'
        "s.submit(Job(code=busy, limits=Limits(time_s=999))).result()"
    )
    host = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    scratch = Path(host.stdout.readline().strip())
    assert scratch.is_dir()
    assert scratch.name.startswith("mucode-")
    below = fork_servers(host.pid)
    until((scratch / "a").exists)
    host.kill()
    host.wait()
    host.stdout.close()
    until(lambda: not alive(below))
    assert not scratch.exists()


@LINUX
def test_a_killed_fork_server_is_replaced():
    sandbox = LocalSandbox(workers=1)
    others = fork_servers(os.getpid())
    assert sandbox.submit(RIGHT).result().passed
    kill(fork_servers(os.getpid()) - others)
    assert sandbox.submit(RIGHT).result().passed
    sandbox.close()


@LINUX
def test_a_server_that_dies_in_the_middle_costs_a_retry_and_no_verdict():
    sandbox = LocalSandbox(workers=1)
    others = fork_servers(os.getpid())
    code = "import time\ndef f(x):\n    while time.process_time() < 1: pass\n    return 2"
    future = sandbox.submit(Job(code=code, tests=("assert f(1) == 2",)))
    until(lambda: busy_programs(os.getpid()))
    kill(fork_servers(os.getpid()) - others)
    assert future.result().passed
    sandbox.close()


@LINUX
def test_a_fork_server_bounds_its_own_memory_and_not_its_programs_by_that():
    sandbox = LocalSandbox(workers=1)
    others = fork_servers(os.getpid())
    take = "def f(x):\n    return len(bytearray(700 << 20)) >> 20"
    job = Job(code=take, tests=("assert f(1) == 700",), limits=Limits(memory_mb=1024, time_s=30))
    assert sandbox.submit(job).result().passed
    servers = named("mucode-zygote") - others
    limits = [re.findall(r"Max data size +(\d+)", Path(f"/proc/{pid}/limits").read_text()) for pid in servers]
    bounded = [int(size) for found in limits for size in found]
    assert bounded
    assert max(bounded) < 1 << 30
    sandbox.close()


def named(name: str) -> set[int]:
    """The processes of that name below this one, as soon as there are any."""

    def found() -> set[int]:
        return {pid for pid in fork_servers(os.getpid()) if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"}

    until(found)
    return found()


@LINUX
@pytest.mark.timing
@pytest.mark.parametrize("name", ["mucode-judge", "mucode-candidat"])
def test_a_stopped_process_is_no_timeout(name):
    sandbox = LocalSandbox(workers=1)
    if "namespaces" not in sandbox.isolation:
        pytest.skip("a program can stop itself where it is not the first process of a namespace")
    code = "import time\ndef f(x):\n    time.sleep(0.5)\n    return 2"
    future = sandbox.submit(Job(code=code, tests=("assert f(1) == 2",), limits=Limits(time_s=0.1)))
    pids = named(name)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)  # twice the limit of wall time
    for pid in pids & fork_servers(os.getpid()):
        os.kill(pid, signal.SIGCONT)
    assert future.result(60).status == "passed"
    sandbox.close()


@pytest.mark.timing
def test_a_program_that_waits_of_its_own_will_is_a_timeout(sandbox):
    lock = "import threading\ndef f(x):\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()"
    codes = ("import time\ndef f(x):\n    time.sleep(99)", lock)
    jobs = [Job(code=code, tests=("assert f(1) == 2",), limits=Limits(time_s=0.1)) for code in codes]
    assert [report.status for report in run(sandbox, jobs)] == ["timeout"] * 2


@pytest.mark.timing
def test_an_answer_in_drops_ends(sandbox):
    code = (
        "import os, time\ndef f(x):\n    os.write(3, b'\\0\\3\\0\\0')\n    while True:\n"
        "        time.sleep(0.01)\n        os.write(3, b' ')"
    )
    report = sandbox.submit(Job(code=code, tests=("assert f(1) == 2",), limits=Limits(time_s=0.1))).result(60)
    assert report.status in ("timeout", "infra")  # infra where the machine is too busy to tell its naps from a queue


@LINUX
def test_descriptors_and_threads_do_not_leak():
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        sandbox = LocalSandbox(workers=2)
        run(sandbox, [RIGHT] * 30)
        sandbox.close()
    assert (descriptors(), threading.active_count()) == (before, threads)


def test_strong_isolation_is_what_it_says_or_refused():
    sandbox = LocalSandbox(workers=1, require="strong", layers=("landlock", "seccomp", "rlimits"))
    with pytest.raises(InfrastructureError, match=r"namespaces.*doctor"):
        sandbox.submit(RIGHT)
    sandbox.close()


def test_weaker_isolation_is_announced_and_reported():
    sandbox = LocalSandbox(workers=1, layers=("landlock", "seccomp", "rlimits"))
    with pytest.warns(WeakIsolationWarning, match="namespaces"):
        report = sandbox.submit(RIGHT).result()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sandbox.submit(RIGHT).result()
    assert report.passed
    assert "namespaces" not in report.isolation
    sandbox.close()


def test_every_report_names_its_layers(sandbox):
    assert sandbox.submit(RIGHT).result().isolation == sandbox.isolation
    assert set(sandbox.isolation.split("+")) <= set(STRONG)


def test_the_doctor_finds_every_layer_or_the_remedy():
    findings = {finding.name: finding for finding in doctor.examine()}
    assert [*STRONG, "verdicts", "isolation"] == list(findings)
    assert findings["verdicts"].holds
    assert findings["verdicts"].detail == "passed, wrong_answer"
    assert all(finding.holds or "Remedy" in finding.detail for finding in findings.values() if finding.name in STRONG)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_gets_the_same_verdicts():
    home = Path(tempfile.mkdtemp())
    try:
        home.chmod(0o755)
        shutil.copytree(RUNNER, home / "anywhere", ignore=shutil.ignore_patterns("__pycache__"))
        jobs = [{"code": f"def f(x): return {n}", "tests": ["assert f(1) == 2"]} for n in (1, 2)]
        (home / "jobs.json").write_text(json.dumps(jobs))
        for path in home.rglob("*"):
            path.chmod(0o755)
        for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
            if Path(python).exists():
                break
        else:
            pytest.skip("no interpreter that another user may run")
        command = [
            "-B",
            str(home / "anywhere" / "remote.py"),
            str(home / "jobs.json"),
            "--nonce",
            "n1",
            "--workers",
            "1",
        ]
        done = subprocess.run(
            [python, *command], user=65534, group=65534, extra_groups=[], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        nonce, _, line = done.stdout.partition(" ")
        answer = json.loads(line)
        assert nonce == "n1"
        assert [report["status"] for report in answer["reports"]] == ["wrong_answer", "passed"]
        assert "namespaces" in answer["layers"] or "namespaces" in answer["missing"]
    finally:
        shutil.rmtree(home)


def test_the_runner_needs_nothing_but_the_standard_library():
    program = (
        f"import sys; sys.path.insert(0, {str(RUNNER.parent)!r})\nimport runner.pool, runner.zygote, runner.remote\n"
    )
    program += "print([n for n in sys.modules if n.split('.')[0] in ('pydantic', 'mucode_agent', 'numpy')])"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_many_threads_share_one_sandbox(sandbox):
    passed: list[bool] = []

    def work() -> None:
        passed.extend(sandbox.submit(RIGHT).result().passed for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed == [True] * 80


def test_a_full_queue_holds_the_caller_back():
    sandbox = LocalSandbox(workers=1, pending=2)
    futures = [
        sandbox.submit(Job(code="import time; time.sleep(0.3)\nx = 1", tests=("assert x == 1",))) for _ in range(4)
    ]
    assert sum(future.done() for future in futures) >= 2
    assert all(future.result().passed for future in futures)
    sandbox.close()


def test_a_callback_may_submit_when_the_queue_is_full():
    sandbox = LocalSandbox(workers=1, pending=1)
    second: list[bool] = []
    done = threading.Event()

    def again(_) -> None:
        inner = sandbox.submit(RIGHT)
        inner.add_done_callback(lambda future: (second.append(future.result().passed), done.set()))

    sandbox.submit(RIGHT).add_done_callback(again)
    assert done.wait(30)
    assert second == [True]
    sandbox.close()


def test_a_sandbox_travels_by_pickle(sandbox):
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy.submit(RIGHT).result().passed
    copy.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_gets_its_own_fork_servers(sandbox):
    assert sandbox.submit(RIGHT).result().passed
    pid = os.fork()
    if pid == 0:
        os._exit(0 if sandbox.submit(RIGHT).result(30).passed else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sandbox.submit(RIGHT).result().passed


def test_a_program_gets_the_same_verdict_alone_and_among_others():
    sandbox = LocalSandbox(workers=4)
    near = Job(
        code="def f(x):\n    while x: x -= 1\n    return 2", tests=("assert f(10**5) == 2",), limits=Limits(time_s=2)
    )
    far = near.model_copy(
        update={
            "tests": (RIGHT.tests[0].model_copy(update={"code": "assert f(10**12) == 2"}),),
            "limits": Limits(time_s=0.1),
        }
    )
    reports = asyncio.run(arun(sandbox, [near, far] * 16))
    assert {report.status for report in reports[::2]} == {"passed"}
    assert {report.status for report in reports[1::2]} == {"timeout"}
    sandbox.close()


def test_the_programs_world_is_pinned(sandbox):
    code = """
import os, random, sys, time, locale
def world():
    return [sorted(os.environ.items()), hash('a'), random.random(), time.tzname[0], sys.getrecursionlimit(),
            sys.argv, os.getcwd(), os.listdir('.'), sys.stdout.encoding, list({'b', 'a', 'c'}), repr(0.1 + 0.2)]
"""
    test = "raise ValueError(repr(world()))"
    first, second = (sandbox.submit(Job(code=code, tests=(test,))).result() for _ in range(2))
    other = LocalSandbox(workers=1)
    third = other.submit(Job(code=code, tests=(test,))).result()
    other.close()
    assert first.results[0].error == second.results[0].error == third.results[0].error
    assert "PYTHONHASHSEED" in first.results[0].error


def test_numpy_is_there_when_it_is_preloaded():
    pytest.importorskip("numpy")
    sandbox = LocalSandbox(workers=1, preload=("numpy",))
    test = "import numpy as np\ndef check(candidate):\n    assert np.allclose(candidate(np.arange(3)), [0, 2, 4])"
    code = "import numpy as np\ndef f(x):\n    return x * 2"
    assert sandbox.submit(Job(code=code, tests=(test,), entry_point="f")).result().passed
    wrong = sandbox.submit(Job(code="def f(x): return x", tests=(test,), entry_point="f")).result()
    assert wrong.status == "wrong_answer"
    assert sandbox.submit(Job(code="import pydantic", tests=("assert f(1)",))).result().status == "exception"
    sandbox.close()


def test_files_may_be_written_within_their_limit(sandbox):
    if "namespaces" not in sandbox.isolation:
        pytest.skip("no bounded scratch without namespaces")
    code = "def f(n):\n    open('a.txt', 'w').write('x' * n)\n    return len(open('a.txt').read())"
    limits = Limits(file_mb=1)
    assert sandbox.submit(Job(code=code, tests=("assert f(1000) == 1000",), limits=limits)).result().passed
    report = sandbox.submit(Job(code=code, tests=("assert f(2 << 20) == 2 << 20",), limits=limits)).result()
    assert report.status == "exception"


def test_threads_of_a_program_end_with_it(sandbox):
    code = "import threading\ndef work():\n    print(input())\nthreading.Thread(target=work).start()"
    assert sandbox.submit(Job(code=code, tests=(StdioTest(stdin="hi", stdout="hi"),))).result().passed


def test_a_pool_takes_plain_dicts():
    pool: Pool = Pool(1)
    assert pool.submit({"code": "x = 1", "tests": ["assert x == 1"]}).result()["status"] == "passed"
    pool.close()


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_ten_thousand_programs_leave_nothing_behind():
    def memory_kb(pids: set[int]) -> int:
        return sum(
            int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 for pid in pids if Path(f"/proc/{pid}").exists()
        )

    sandbox = LocalSandbox(workers=2)
    jobs = [
        Job(code=f"def f(x): return x + {n % 2}", tests=(f"assert f({n % 50}) == {n % 50} + 1",)) for n in range(10_000)
    ]
    run(sandbox, jobs[:500])
    before = memory_kb(fork_servers(os.getpid())), len(list(Path("/proc/self/fd").iterdir()))
    reports = run(sandbox, jobs)
    after = memory_kb(fork_servers(os.getpid())), len(list(Path("/proc/self/fd").iterdir()))
    assert [report.passed for report in reports] == [n % 2 == 1 for n in range(10_000)]
    assert {report.status for report in reports} == {"passed", "wrong_answer"}
    assert after[0] < 1.5 * before[0] + 20_000
    assert after[1] <= before[1] + 2
    below = fork_servers(os.getpid())
    sandbox.close()
    until(lambda: not alive(below))
