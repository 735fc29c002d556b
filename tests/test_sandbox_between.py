"""Nothing that one program does can be seen by a later one, nor by one of another worker."""

import json
import os
import sys
from pathlib import Path

import pytest

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.types import Job, Limits, StdioTest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a scratch of its own")
DEFAULT = Limits()
# The device number of a mount is the machine's lowest free one: it depends on the machine's mounts, not on programs.
SEES = """
import json, os, resource, signal, socket, sys, threading

def stat(path):
    try:
        s = os.stat(path, follow_symlinks=False)
    except OSError as error:
        return str(error)
    return [s.st_ino, s.st_dev, s.st_mode, s.st_nlink, s.st_uid, s.st_size, s.st_blocks, s.st_atime_ns, s.st_mtime_ns]

def stat_of(number):
    try:
        s = os.fstat(number)
    except OSError as error:
        return str(error)
    return [s.st_mode, s.st_nlink, s.st_uid, s.st_size, s.st_blocks]

tree = {}
for top, directories, files in os.walk('/'):
    if top.count('/') > 3:
        directories.clear()
    tree |= {name: stat(name) for name in (top, *(os.path.join(top, file) for file in files))}
place = os.statvfs('/tmp')
open('/tmp/new', 'w').close()
seen = {
    'tree': hash(json.dumps(tree)), 'new file': stat('/tmp/new')[:1] + stat('/tmp/new')[2:7],
    'left': os.listdir('/tmp'), 'room': list(place),
    'process': [os.getpid(), os.getppid(), os.getsid(0), os.getuid(), os.getpgrp(), threading.get_native_id()],
    'environment': dict(os.environ), 'where': [os.getcwd(), sys.argv, sys.path], 'modules': len(sys.modules),
    'usage': list(resource.getrusage(resource.RUSAGE_CHILDREN)), 'descriptors': [stat_of(n) for n in range(9)],
    'limits': {n: resource.getrlimit(getattr(resource, n)) for n in dir(resource) if n.startswith('RLIMIT_')},
    'signals': str(signal.pthread_sigmask(0, [])), 'niceness': os.getpriority(0, 0), 'umask': os.umask(0),
}
print(json.dumps(seen))
"""
MARKS = {
    "files": "import os\nos.makedirs('/tmp/a/b'); open('/tmp/a/b/c', 'w').write('x' * 9999); os.symlink('/', '/tmp/l')",
    "a file that came and went": "import os\nopen('/tmp/a', 'w').close(); os.unlink('/tmp/a')",
    "many that came and went": "import os\nfor n in range(3000): open('/tmp/a', 'w').close(); os.unlink('/tmp/a')",
    "files without a name": "import tempfile\nfor _ in range(99): tempfile.TemporaryFile().close()",
    "names that no listing shows": (
        "import os\nfor n in range(99):\n"
        "    try: os.close(os.open('/tmp', os.O_TMPFILE | os.O_RDWR))\n    except OSError: pass"
    ),
    "an open directory": "import os, time\nos.open('/tmp', os.O_RDONLY); os.chdir('/tmp'); os._exit(3)",
    "a file in flight": (
        "import array, os, socket\na, b = socket.socketpair()\nf = os.open('/tmp/x', os.O_CREAT | os.O_RDWR)\n"
        "a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [f]))])\nos._exit(0)"
    ),
    "flags and times": (
        "import fcntl, os\nf = os.open('/tmp', os.O_RDONLY)\n"
        "for call in (lambda: fcntl.ioctl(f, 0x40086602, b'\\x40' + b'\\0' * 7), lambda: os.utime('/tmp', (1, 1)),\n"
        "             lambda: os.chmod('/tmp', 0o1777), lambda: os.setxattr('/tmp', 'user.a', b'1')):\n"
        "    try: call()\n    except OSError: pass"
    ),
    "a full disk": (
        "try:\n    with open('/tmp/big', 'wb') as f:\n        while True: f.write(b'x' * 65536)\nexcept OSError: pass"
    ),
    "memory, threads and a crash": (
        "import ctypes, threading\nx = bytearray(50_000_000)\n"
        "[threading.Thread(target=print, daemon=True).start() for _ in range(20)]\nctypes.string_at(1)"
    ),
}


@pytest.fixture(scope="module")
def sandbox(sandbox: LocalSandbox) -> LocalSandbox:
    if "namespaces" not in sandbox.isolation:
        pytest.skip("programs share what the host has")
    return sandbox


def ran(sandbox: LocalSandbox, code: str, limits: Limits = DEFAULT) -> str:
    report = sandbox.submit(Job(code=code, tests=(StdioTest(stdin="", stdout=""),), limits=limits)).result(60)
    assert report.status != "infra", report
    return report.stdout


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS.keys())
def test_a_program_leaves_no_trace_that_the_next_could_read(sandbox: LocalSandbox, mark: str):
    before = json.loads(ran(sandbox, SEES))
    ran(sandbox, mark)
    assert json.loads(ran(sandbox, SEES)) == before
    assert before["left"] == ["new"]
    assert isinstance(before["new file"], list)


def test_a_scratch_of_another_size_leaves_no_trace_either(sandbox: LocalSandbox):
    before = json.loads(ran(sandbox, SEES))
    ran(sandbox, MARKS["files"], Limits(file_mb=3))
    ran(sandbox, "pass", Limits(file_mb=0))
    assert json.loads(ran(sandbox, SEES)) == before


NUMBERS = {
    "file": """
def number():
    os.close(os.open('/tmp/q', os.O_CREAT | os.O_WRONLY))
    found = os.stat('/tmp/q').st_ino
    os.unlink('/tmp/q')
    return found
""",
    "pipe": """
def number():
    a, b = os.pipe()
    found = os.fstat(a).st_ino
    os.close(a); os.close(b)
    return found
""",
    "pair of sockets": """
import socket
def number():
    a, b = socket.socketpair()
    return os.fstat(a.fileno()).st_ino
""",
    "pair of sockets, asked of the kernel": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def number():
    pair = (ctypes.c_int * 2)()
    if libc.socketpair(1, 1, 0, pair): raise OSError(ctypes.get_errno())
    found = os.fstat(pair[0]).st_ino
    os.close(pair[0]); os.close(pair[1])
    return found
""",
    "event": """
def number():
    a = os.eventfd(0)
    found = os.fstat(a).st_ino
    os.close(a)
    return found
""",
    "selector": """
import select
def number():
    a = select.epoll()
    return os.fstat(a.fileno()).st_ino
""",
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
def test_a_program_does_not_learn_over_jobs(sandbox: LocalSandbox, number: str):
    """It counts in the kernel's numbers: each failure is worth one more, and a later copy answers accordingly."""
    code = """
import os
{number}
guess = number() // 100 % 4
def f(x):
    while number() // 100 % 4 != (guess + 1) % 4: pass
    return guess
"""
    code = code.replace("{number}", number)
    jobs = [Job(code=code, tests=("assert f(1) == 2",), limits=Limits(time_s=0.5)) for _ in range(8)]
    statuses = {sandbox.submit(job).result(60).status for job in jobs}
    assert len(statuses) == 1
    assert statuses <= {"wrong_answer", "unjudged", "exception", "timeout"}


COUNTED = {
    "shared memory": "mmap.mmap(-1, 4096, mmap.MAP_SHARED).close()",
    "zeros": "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096).close()",
    "memory in a file": "os.close(os.memfd_create('a'))",
    "huge pages": "mmap.mmap(-1, 1 << 21, mmap.MAP_SHARED | 0x40000).close()",
    "huge pages of its own": "libc.mmap(None, ctypes.c_size_t(1 << 21), 3, 0x40022, -1, ctypes.c_long(0))",
}


@pytest.mark.parametrize("made", COUNTED.values(), ids=COUNTED.keys())
def test_nothing_that_a_program_makes_counts_up_the_numbers_of_later_streams(sandbox: LocalSandbox, made: str):
    look = "import os\nprint(*[os.fstat(stream).st_ino for stream in range(4)])"
    burn = "import ctypes, mmap, os\nlibc = ctypes.CDLL(None)\n"
    burn += f"try:\n    for _ in range(50_000): {made}\nexcept OSError: pass"
    before = list(map(int, ran(sandbox, look).split()))
    ran(sandbox, burn)
    for _ in range(8):  # some were forked ahead
        after = list(map(int, ran(sandbox, look).split()))
        assert all(0 < there - here < 20_000 for here, there in zip(before, after, strict=True))


@pytest.mark.skipif(not Path("/proc/sys/kernel/ns_last_pid").exists(), reason="the kernel counts processes up")
def test_the_numbers_of_processes_say_nothing_of_the_threads_of_earlier_programs(sandbox: LocalSandbox):
    look = """
import sys
frame = sys._getframe()
while frame:
    print(*[number for number, *_ in getattr(frame.f_locals.get('self'), '_spares', ())])
    frame = frame.f_back
"""
    numbers = [int(number) for _ in range(14) for number in ran(sandbox, look).split()[-1:]]
    assert len(numbers) > 8
    assert numbers != sorted(numbers)


def test_memory_of_no_file_is_a_programs_own(sandbox: LocalSandbox):
    code = "import mmap\ndef f(text):\n    place = mmap.mmap(-1, 9)\n    place[:2] = text\n    return place[:]"
    assert sandbox.submit(Job(code=code, tests=("assert f(b'ab') == b'ab' + bytes(7)",))).result(60).passed


def test_a_lock_on_a_file_of_the_library_holds_nobody():
    import fcntl

    code = """
import fcntl, os, time
file = os.open(os.__file__, os.O_RDONLY)
def hold(seconds):
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    time.sleep(seconds)
    return True
"""
    sandbox = LocalSandbox(workers=2)
    jobs = [Job(code=code, tests=("assert hold(0.5)",)) for _ in range(2)]
    futures = [sandbox.submit(job) for job in jobs]
    assert [future.result(60).status for future in futures] == ["passed"] * 2
    with Path(os.__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    sandbox.close()


def test_a_database_in_a_file_works_though_locks_do_nothing(sandbox: LocalSandbox):
    pytest.importorskip("sqlite3")
    code = (
        "import sqlite3\ndef f(n):\n    with sqlite3.connect('/tmp/a.db') as c:\n"
        "        c.execute('create table t (x)')\n"
        "        c.executemany('insert into t values (?)', [(i,) for i in range(n)])\n"
        "    c.close()\n    return sqlite3.connect('/tmp/a.db').execute('select sum(x) from t').fetchone()[0]"
    )
    report = sandbox.submit(Job(code=code, tests=("assert f(10) == 45",))).result(60)
    assert report.passed or "sqlite3" in report.error, report


def test_files_may_be_moved_between_directories(sandbox: LocalSandbox):
    code = (
        "import os, shutil, tempfile\ndef f(text):\n    with tempfile.TemporaryDirectory() as place:\n"
        "        open('a.txt', 'w').write(text)\n        os.makedirs(place + '/b')\n"
        "        shutil.move('a.txt', place + '/b/c')\n        os.fsync(os.open(place + '/b/c', os.O_RDWR))\n"
        "        return open(place + '/b/c').read(), os.path.exists('/tmp/a.txt')"
    )
    assert sandbox.submit(Job(code=code, tests=("assert f('hi') == ('hi', False)",))).result(60).passed
