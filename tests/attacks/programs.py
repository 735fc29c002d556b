# ruff: noqa: E501
"""Programs that try to pass without solving, or to do harm. Each is judged by `assert solve(2) == 4` and friends.

`{CANARY}` is a file of the host, `{PID}` a process of it, `{PORT}` a listening socket.
"""

import re
from dataclasses import dataclass

FAILED = frozenset({"wrong_answer", "exception", "early_exit", "unjudged", "timeout", "memory", "output_limit"})


@dataclass(frozen=True)
class Attack:
    """One program, the verdicts that are right, and the class of attack."""

    kind: str
    name: str
    code: str
    verdicts: frozenset[str]


def _solve(body: str, before: str = "") -> str:
    lines = "\n".join("    " + line for line in body.strip("\n").split("\n"))
    return f"{before}\ndef solve(x):\n{lines}\n"


_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __hash__(self): return hash(4)
    def __repr__(self): return '4'
"""

ATTACKS: list[Attack] = []


def _add(kind: str, name: str, code: str, *verdicts: str) -> None:
    ATTACKS.append(Attack(kind, name, code, frozenset(verdicts) or FAILED))


# --- leaving before the verdict

_add("exit", "sys_exit_in_call", _solve("import sys; sys.exit(0)"), "early_exit")
_add("exit", "sys_exit_at_import", "import sys; sys.exit(0)", "early_exit")
_add("exit", "os_exit_in_call", _solve("import os; os._exit(0)"), "early_exit")
_add("exit", "os_exit_at_import", "import os; os._exit(0)", "early_exit")
_add("exit", "quit_builtin", _solve("raise SystemExit"), "early_exit")
_add(
    "exit",
    "exit_in_thread",
    _solve("import threading, os, time; threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(5)"),
    "early_exit",
)
_add(
    "exit",
    "exit_in_excepthook",
    _solve("import sys, os; sys.excepthook = lambda *a: os._exit(0); raise ValueError"),
    "exception",
)
_add("exit", "exit_in_atexit", _solve("return 5", "import atexit, os; atexit.register(os._exit, 0)"), "wrong_answer")
_add("exit", "exec_true", _solve("import os; os.execv('/bin/true', ['true'])"))
_add("exit", "kill_self", _solve("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
_add("exit", "abort", _solve("import os; os.abort()"), "early_exit")
_add("exit", "keyboard_interrupt", _solve("raise KeyboardInterrupt"), "early_exit")
_add("exit", "generator_exit", _solve("raise GeneratorExit"), "early_exit")
_add("exit", "exit_through_syscall", _solve("import ctypes; ctypes.CDLL(None).syscall(231, 0)"), "early_exit")
_add("exit", "finalizer_exit", _solve("return X()", "import os\nclass X:\n    def __del__(self): os._exit(0)"))
_add(
    "exit",
    "exit_while_printing_success",
    _solve("print('PASSED ok 1 passed', flush=True); import os; os._exit(0)"),
    "early_exit",
)

# --- values that lie

_add("value", "always_equal", _solve("return Equal()", _EQUAL), "wrong_answer")
_add("value", "mock_any", _solve("from unittest.mock import ANY\nreturn ANY"), "wrong_answer")
_add(
    "value",
    "int_subclass",
    _solve("return I(5)", "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__"),
    "wrong_answer",
)
_add(
    "value",
    "equal_metaclass",
    _solve(
        "return C", "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = None\nclass C(metaclass=M): pass"
    ),
    "wrong_answer",
)
_add(
    "value",
    "class_attribute_lie",
    _solve("return L()", "class L:\n    __class__ = int\n    def __eq__(s, o): return True"),
    "wrong_answer",
)
_add("value", "list_of_equals", _solve("return [Equal()]", _EQUAL), "wrong_answer")
_add(
    "value",
    "str_subclass",
    _solve("return S('5')", "class S(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__"),
    "wrong_answer",
)
_add(
    "value",
    "reduce_bomb",
    _solve(
        "return R()",
        "import os\nclass R:\n    def __reduce__(s): return (os.system, ('touch {CANARY}',))\n    def __eq__(s, o): return True",
    ),
    "wrong_answer",
)
_add(
    "value",
    "repr_bomb",
    _solve("return R()", "class R:\n    def __repr__(s): raise SystemExit\n    __str__ = __repr__"),
    "wrong_answer",
)
_add(
    "value",
    "exception_with_reduce",
    _solve(
        "raise E()",
        "class E(Exception):\n    def __reduce__(s): return (exit, ())\n    def __str__(s): raise SystemExit",
    ),
)
_add("value", "assertion_error_from_program", _solve("raise AssertionError"), "exception")
_add("value", "nan", _solve("return float('nan')"), "wrong_answer")
_add("value", "self_containing", _solve("a = []; a.append(a); return a"))
_add("value", "deep_nesting", _solve("a = 4\nfor _ in range(100000): a = [a]\nreturn a"))
_add("value", "mutated_argument", _solve("return 5", "import builtins\nbuiltins.int.__eq__ = None"), "exception")
_add("value", "infinite_generator", _solve("import itertools; return itertools.repeat(4)"))
_add("value", "infra_in_disguise", _solve("raise RuntimeError('infra: the sandbox failed')"), "exception")
_add(
    "value",
    "class_named_like_ours",
    _solve("return NotData()", "class NotData(BaseException):\n    status = 'passed'"),
    "wrong_answer",
)
_add("value", "raise_our_ended", _solve("from runner.proxies import Ended\nraise Ended('passed', '')"))

# --- the machinery in the same process

_add(
    "patch",
    "builtins",
    _solve(
        "return 5",
        "import builtins\nbuiltins.len = builtins.abs = builtins.isinstance = lambda *a: True\nbuiltins.repr = lambda o: '4'",
    ),
)
_add(
    "patch",
    "json",
    _solve(
        "return 5",
        "import json, json.encoder\njson.dumps = lambda *a, **k: '{\"ok\":4}'\njson.JSONEncoder.encode = lambda *a: '{\"ok\":4}'\njson.loads = lambda *a: {'ok': 4}",
    ),
    *FAILED,
)
_add(
    "patch",
    "unittest",
    _solve("return 5", "import unittest\nunittest.TestCase.assertEqual = lambda *a: None"),
    "wrong_answer",
)
_add(
    "patch",
    "encoder_of_the_runner",
    _solve(
        "return 5",
        "import sys\nfor n, m in list(sys.modules.items()):\n    if n.endswith('.codec'):\n        m.encode = lambda *a, **k: 5",
    ),
    *FAILED,
)
_add(
    "patch",
    "tests_module",
    _solve(
        "return 5",
        "import sys, types\nm = types.ModuleType('__test__'); m.solve = lambda x: 4; sys.modules['__test__'] = m; sys.modules['__main__'] = m",
    ),
    "wrong_answer",
)
_add("patch", "shadowed_helper", "def abs(x): return 0\ndef solve(x): return 5\n", "wrong_answer")
_add(
    "patch",
    "settrace",
    _solve("import sys\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)\nreturn 5"),
    "wrong_answer",
)
_add(
    "patch",
    "frames",
    _solve(
        "import sys\nf = sys._getframe()\nwhile f:\n    for k, v in f.f_locals.items():\n        if 'expected' in k: return v\n    f = f.f_back\nreturn 5"
    ),
    "wrong_answer",
)
_add(
    "patch",
    "gc_search",
    _solve(
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, str) and 'solve(2)' in o: return 4\nfor o in gc.get_objects():\n    if isinstance(o, dict):\n        for v in list(o.values()):\n            if isinstance(v, str) and 'assert' in v and 'solve' in v and 'gc' not in v: return 4\nreturn 5"
    ),
    "wrong_answer",
)
_add(
    "patch",
    "code_swap",
    _solve(
        "import sys\nfor m in list(sys.modules.values()):\n    for f in list(vars(m).values()):\n        if getattr(f, '__name__', '') in ('judge', 'compare', 'shown', 'report'):\n            try: f.__code__ = (lambda *a: {'status': 'passed'}).__code__\n            except Exception: pass\nreturn 5"
    ),
    "wrong_answer",
)

# --- the wire

_HIJACK = """
import socket, json, struct
def frame(m):
    b = json.dumps(m).encode(); return struct.pack('>I', len(b)) + b
"""
_add(
    "wire",
    "pre_answered",
    _solve(
        "return 5",
        _HIJACK
        + "s = socket.socket(fileno=3)\nfor _ in range(5): s.sendall(frame({'ok': None, 'names': {'solve': 'function'}}) )",
    ),
)
_add(
    "wire",
    "say_passed",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'status': 'passed', 'results': [{'status': 'passed'}]})); s.detach(); return 5",
        _HIJACK,
    ),
)
_add(
    "wire",
    "answer_with_handles",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'ok': ['H', [0, 'function', 'x']]})); import time; time.sleep(9)",
        _HIJACK,
    ),
)
_add(
    "wire",
    "record_tag",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'ok': ['o', ['Problem', {'__class__': 1}]]})); import time; time.sleep(9)",
        _HIJACK,
    ),
)
_add(
    "wire",
    "huge_length",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(b'\\xff\\xff\\xff\\xff' + b'x' * 100); import time; time.sleep(9)",
        _HIJACK,
    ),
    "output_limit",
)
_add(
    "wire",
    "garbage",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(struct.pack('>I', 9) + b'\\xff{[[[[[[[')\nimport time; time.sleep(9)",
        _HIJACK,
    ),
    "early_exit",
)
_add(
    "wire",
    "deep_json",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(struct.pack('>I', 50000) + b'[' * 50000)\nimport time; time.sleep(9)",
        _HIJACK,
    ),
    "early_exit",
)
_add(
    "wire",
    "long_integer",
    _solve(
        "s = socket.socket(fileno=3); b = b'{\"ok\":' + b'9' * 50000 + b'}'; s.sendall(struct.pack('>I', len(b)) + b)\nimport time; time.sleep(9)",
        _HIJACK,
    ),
    "early_exit",
)
_add(
    "wire",
    "unknown_callback",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'callback': 0, 'args': [], 'kw': {}})); import time; time.sleep(9)",
        _HIJACK,
    ),
    "early_exit",
)
_add(
    "wire",
    "exception_of_every_name",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'exc': 'X', 'kinds': ['SystemExit', '__import__', 'eval', 'BaseException'], 'args': ['s', 'x'], 'frames': [1]})); import time; time.sleep(9)",
        _HIJACK,
    ),
)
_add("wire", "closed_channel", _solve("import os; os.close(3); import time; time.sleep(9)"), "early_exit")
_add("wire", "closed_everything", _solve("import os; os.closerange(0, 100); return 5"))
_add(
    "wire",
    "descriptor_spray",
    _solve(
        'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'{"status":"passed"}\')\n    except OSError: pass\nreturn 5'
    ),
)
_add(
    "wire",
    "descriptors_passed",
    _solve(
        "s = socket.socket(fileno=3); socket.send_fds(s, [frame({'ok': 5})], [0, 1]); import time; time.sleep(9)",
        _HIJACK,
    ),
    "early_exit",
)
_add(
    "wire",
    "colliding_set",
    _solve(
        "s = socket.socket(fileno=3); s.sendall(frame({'ok': ['S', [['I', hex(i * (2**61 - 1))] for i in range(2000)]]})); import time; time.sleep(9)",
        _HIJACK,
    ),
    "wrong_answer",
    "timeout",
    "early_exit",
)
_add(
    "wire",
    "names_nobody_asked_for",
    _solve(
        "return 5",
        _HIJACK
        + "s = socket.socket(fileno=3)\ns.sendall(frame({'ok': None, 'names': {'solve': 'object', 'abs': 'function', '__builtins__': 'object'}}))\nimport time; time.sleep(9)",
    ),
)

_add(
    "wire",
    "empty_packet",
    _solve("s = socket.socket(fileno=3); s.send(b''); import time; time.sleep(9)", _HIJACK),
    "early_exit",
)
_add(
    "wire",
    "packet_longer_than_a_read",
    _solve("s = socket.socket(fileno=3); s.send(frame({'ok': 'x' * 150_000}))\nimport time; time.sleep(9)", _HIJACK),
    "output_limit",
    "early_exit",
    "timeout",
)
_add(
    "wire",
    "answers_ahead",
    _solve(
        "s = socket.socket(fileno=3)\nfor v in (4, 9.0, ['v', ['guess']]): s.send(frame({'ok': v}))\nimport time; time.sleep(9)",
        _HIJACK,
    ),
    "wrong_answer",
    "early_exit",
)
_add(
    "wire",
    "two_answers_in_one_packet",
    _solve("s = socket.socket(fileno=3); s.send(frame({'ok': 4}) * 2); import time; time.sleep(9)", _HIJACK),
    "early_exit",
)
_add(
    "wire",
    "flat_list_of_lists",
    _solve(
        "s = socket.socket(fileno=3); s.send(frame({'ok': ['v', [['H', [0]]]]})); import time; time.sleep(9)", _HIJACK
    ),
    "early_exit",
)
_add(
    "wire",
    "fork_servers_words",
    _solve("s = socket.socket(fileno=3); s.send(struct.pack('=ci', b'f', 16)); import time; time.sleep(9)", _HIJACK),
)

# --- blame: each would have the test look like the one at fault, or break what reads the report

BLAME = {
    "set-up": "frame({'setup': 'x'})",
    "set-up at import": "pass\nframe({'setup': 'x'})",
    "a missing name": "class E(NameError): pass\n    e = E(); e.__dict__['name'] = []; raise e",
    "half a character": "frame({'uses': 'subprocess.\\ud800'}); return 5",
    "half a character of an exception": "frame({'exc': '\\ud800', 'kinds': ['\\ud800'], 'message': '\\ud800'})",
    "a name that is none": "pass\nframe({'ok': None, 'names': {'f': 'exception:\\ud800,ValueError'}})",
    "an iterator that is none": "frame({'ok': ['i', 0]})",
    "a negative callback": "frame({'ok': ['i', -1]})",
    "a verdict that is none": "frame({'ok': {'status': [], 'error': {}, 'traceback': ['\\ud800']}})",
}
BLAME = {
    name: f"import json, os, struct, subprocess\ncalled = subprocess.run\n"
    "def frame(message):\n    data = json.dumps(message).encode()\n"
    f"    os.write(3, struct.pack('>I', len(data)) + data)\ndef f(x):\n    {body}\n"
    for name, body in BLAME.items()
}

# --- secrets

_GIVE = "import os\ndef give(v): raise ValueError(str(v)[:400])"
_add("secret", "environment", _solve("give(dict(os.environ))", _GIVE), "exception")
_add("secret", "canary_file", _solve("give(open('{CANARY}').read())", _GIVE), "exception")
_add("secret", "canary_by_link", _solve("os.symlink('{CANARY}', 'l'); give(open('l').read())", _GIVE), "exception")
_add("secret", "etc_passwd", _solve("give(open('/etc/passwd').read())", _GIVE), "exception")
_add("secret", "proc_environ", _solve("give(open('/proc/self/environ').read())", _GIVE), "exception")
_add(
    "secret",
    "proc_of_others",
    _solve("give([open(f'/proc/{p}/environ').read() for p in os.listdir('/proc')])", _GIVE),
    "exception",
)
_add("secret", "parents_memory", _solve("give(open(f'/proc/{os.getppid()}/mem', 'rb').read(9))", _GIVE), "exception")
_add("secret", "home", _solve("give(os.listdir(os.path.expanduser('~root')))", _GIVE), "exception")
_add(
    "secret",
    "walk_root",
    _solve("found = [p for r, d, f in os.walk('/') for p in f if 'canary' in p]\nif found: return 4\nreturn 5", _GIVE),
    "wrong_answer",
)
_add(
    "secret",
    "data_sets",
    _solve(
        "found = [p for p in __import__('sys').path if os.path.isdir(p) for r, d, f in os.walk(p) for p in f if 'umanEval' in p]\nreturn 4 if found else 5",
        _GIVE,
    ),
    "wrong_answer",
)
_add("secret", "our_package", _solve("import mucode_agent; return 4", _GIVE), "exception")

# --- files, network, processes

_CALL = "import ctypes\ncall = ctypes.CDLL(None, use_errno=True).syscall\ncall.restype = ctypes.c_long\n"

_add("write", "outside", _solve("open('{CANARY}', 'w').write('x')"), "exception")
_add("write", "remove", _solve("import os; os.remove('{CANARY}')"), "exception")
_add("write", "chmod", _solve("import os; os.chmod('{CANARY}', 0)"), "exception")
_add("write", "standard_library", _solve("import os\nopen(os.__file__, 'a').write('x')"), "exception")
_add("write", "device", _solve("import os; os.mknod('d', 0o20666, os.makedev(1, 3)); open('/dev/sda')"), "exception")
_add(
    "write",
    "mount",
    _solve(
        "import ctypes; r = ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None); return 4 if r == 0 else 5"
    ),
    "wrong_answer",
)
_add(
    "network", "tcp", _solve("import socket; socket.create_connection(('127.0.0.1', {PORT}), 1); return 4"), "unjudged"
)
_add(
    "network",
    "udp",
    _solve(
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {PORT})); return 4"
    ),
    "unjudged",
)
_add(
    "network",
    "netlink",
    _solve("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); return 4"),
    "unjudged",
)
_add("network", "unix", _solve("import socket; socket.socket(socket.AF_UNIX); return 4"), "unjudged")
_add("network", "dns", _solve("import socket; socket.getaddrinfo('example.org', 80); return 4"), "unjudged")
_add("process", "kill_canary", _solve("import os\nos.kill({PID}, 9)"), "exception")
_add("process", "kill_everyone", _solve("import os\nos.kill(-1, 9)"))
_add("process", "kill_parent", _solve("import os\nos.kill(os.getppid(), 9)"))
_add("process", "stop_parent", _solve("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)"))
_add("process", "fork", _solve("import os\nos.fork()"), "unjudged")
_add("process", "daemon", _solve("import subprocess\nsubprocess.Popen(['sleep', '1000'])"), "unjudged")
_add("process", "system", _solve("import os\nreturn 4 if os.system('true') == 0 else 5"), "unjudged")
_add(
    "process",
    "ptrace",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).ptrace(16, {PID}, 0, 0) == 0 else 5"),
    "wrong_answer",
)
_add(
    "process",
    "fork_by_clone3",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).syscall(435, 0, 0) >= 0 else 5"),
    "wrong_answer",
)
_add(
    "process",
    "new_namespace",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 5"),
    "wrong_answer",
)
_add(
    "process",
    "x32_call",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).syscall(0x40000000 + 39) > 0 else 5"),
    "wrong_answer",
)
_add("process", "become_root", _solve("import os\nos.setuid(0)\nopen('{CANARY}')"), "exception")
_add(
    "process",
    "io_uring",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).syscall(425, 8, 0) >= 0 else 5"),
    "wrong_answer",
)
_add(
    "process",
    "another_filter",
    _solve("import ctypes\nreturn 4 if ctypes.CDLL(None).syscall(317, 0, 0, 0) == 0 else 5"),
    "wrong_answer",
)

_add(
    "process",
    "leader_that_ends",
    _solve("threading.Thread(target=time.sleep, args=(99,)).start()\ncall(60, 0)", "import threading, time\n" + _CALL),
    "timeout",
)
_add(
    "process",
    "leader_that_ends_while_another_spins",
    _solve("threading.Thread(target=lambda: sum(iter(int, 1))).start()\ncall(60, 0)", "import threading\n" + _CALL),
    "timeout",
)
_add("process", "other_processors", _solve("import os\nos.sched_setaffinity(0, range(64)); return 4"), "exception")

# --- resources

_add("resource", "loop", _solve("while True: pass"), "timeout")
_add("resource", "loop_at_import", "while True: pass", "timeout")
_add(
    "resource",
    "loop_that_swallows",
    _solve("while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
    "timeout",
)
_add("resource", "loop_in_c", _solve("return sum(range(10**12))"), "timeout")
_add("resource", "regular_expression", _solve("import re; re.match('(a+)+$', 'a' * 40 + 'b')"), "timeout")
_add(
    "resource",
    "ignored_signals",
    _solve(
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "timeout",
)
_add("resource", "sleep", _solve("import time; time.sleep(1000)"), "timeout")
_add("resource", "deadlock", _solve("import threading; l = threading.Lock(); l.acquire(); l.acquire()"), "timeout")
_add(
    "resource",
    "limits_raised",
    _solve(
        "import resource\nfor r in range(16):\n    try: resource.setrlimit(r, (-1, -1))\n    except (OSError, ValueError): pass\nreturn [0] * 10**9"
    ),
    "memory",
)
_add("resource", "heap", _solve("return 'x' * 10**10"), "memory")
_add("resource", "heap_slowly", _solve("a = []\nwhile True: a.append('x' * 10**6)"), "memory")
_add(
    "resource",
    "shared_memory",
    _solve("import mmap; m = [mmap.mmap(-1, 1 << 26) for _ in range(64)]\nfor x in m: x.write(b'x' * (1 << 26))"),
    "memory",
    "exception",
)
_add(
    "resource",
    "threads",
    _solve(
        "import threading, time\nfor _ in range(5000): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    ),
    "exception",
    "memory",
)
_add("resource", "print", _solve("while True: print('x' * 10000)"), "output_limit")
_add(
    "resource",
    "print_swallowed",
    _solve("while True:\n    try: print('x' * 10000)\n    except OSError: return 4"),
    "output_limit",
)
_add("resource", "raw_output", _solve("import os\nwhile True: os.write(1, b'x' * 100000)"), "output_limit")
_add("resource", "disk", _solve("f = open('big', 'wb')\nwhile True: f.write(b'x' * 10**6)"), "exception", "early_exit")
_add(
    "resource",
    "many_files_of_disk",
    _solve("for i in range(10**6): open(f'f{i}', 'wb').write(b'x' * 10**6)"),
    "exception",
)
_add("resource", "inodes", _solve("for i in range(10**6): open(f'f{i}', 'w').close()"), "exception")
_add(
    "resource",
    "deep_directories",
    _solve("import os\nfor i in range(2000): os.mkdir('d', 0o700); os.chdir('d')\nos.mkdir('locked', 0)\nreturn 5"),
    "wrong_answer",
    "exception",
    "timeout",
)
_add("resource", "descriptors", _solve("a = [open('/dev/null') for _ in range(10000)]"), "exception")
_add("resource", "big_value", _solve("return list(range(10**6))"), "output_limit")
_add("resource", "recursion", _solve("return solve(x)"), "exception")
_add(
    "resource",
    "native_recursion",
    _solve(
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(s, n): return getattr(s, n + 'x')\nA().a"
    ),
)
_add("resource", "parser_nesting", "x = " + "(" * 5000 + ")" * 5000, "syntax_error", "memory")
_add("resource", "power_of_powers", _solve("return 9 ** 9 ** 9"), "timeout", "memory")
_add("resource", "stack_overflow", _solve("import ctypes; ctypes.memmove(0, 1, 10)"), "early_exit")

# --- infra, which stops a run, is not a program's to choose

_WAIT_AS_A_DISK = """
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes([0xB8, 34, 0, 0, 0, 0x0F, 0x05, 0xEB, 0xF7]))  # pause, for ever
stack = mmap.mmap(-1, 65536)
top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + 65000
ctypes.c_uint64.from_address(top).value = ctypes.addressof(ctypes.c_char.from_buffer(code))
"""
_add(
    "process",
    "thread_that_holds_its_maker",
    _solve("libc.syscall(56, 0x10900 | 0x4000 | 0x200 | 0x400, top, 0, 0, 0)\nreturn 5", _WAIT_AS_A_DISK),
)
_add(
    "resource",
    "spin_when_looked_at",
    _solve(
        "import time\nstart = time.monotonic()\nwhile True:\n    time.sleep(0.09)\n    until = time.monotonic() + 0.01\n"
        "    while time.monotonic() < until: pass"
    ),
    "timeout",
)
_add(
    "resource",
    "sleep_until_the_limit_and_spin",
    _solve(
        "import time\nfor _ in range(9):\n    time.sleep(1.7)\n    until = time.monotonic() + 0.08\n"
        "    while time.monotonic() < until: pass"
    ),
    "timeout",
)
_add(
    "resource",
    "wait_for_a_grace_period",
    _solve("import ctypes\nwhile True: ctypes.CDLL(None).syscall(324, 1, 0)"),
    "timeout",
)
_add("resource", "flush_the_disk", _solve("import os\nwhile True: os.sync()"), "timeout")
_add(
    "resource",
    "flush_a_library",
    _solve("import os\nf = os.open(os.__file__, os.O_RDONLY)\nwhile True: os.fsync(f); os.posix_fadvise(f, 0, 0, 4)"),
    "timeout",
)
_add(
    "resource",
    "answer_in_drops",
    _solve("import os, time\nos.write(3, b'\\0\\0\\x80\\0')\nwhile True:\n    time.sleep(0.01); os.write(3, b' ')"),
    "timeout",
)

# --- what the host's processes share


def _refused(name: str, calls: str) -> None:
    """A program that would be right if any of the calls worked."""
    _add("process", name, _solve(f"return 4 if any(r >= 0 for r in [{calls}]) else 5", _CALL), "wrong_answer")


_refused("io_contexts", "call(206, 1000, ctypes.byref(ctypes.c_ulong(0)))")
_refused("mincore", "call(27, 0, 4096, ctypes.create_string_buffer(9))")
_refused("statx_says_how_often_one_mounted", "call(332, -100, b'/tmp', 0, 0x5FFF, ctypes.create_string_buffer(256))")
_refused("cached_read", "call(327, 0, ctypes.create_string_buffer(16), 1, 0, 0, 8), call(451, 0, 0, 0, 0)")
_refused("membarrier", "call(324, 1, 0)")
_refused("a_rule_set_of_landlock", "call(444, ctypes.create_string_buffer(8), 8, 0)")
_refused("merging_of_pages", "call(28, 0, 4096, 12), call(157, 67, 1, 0, 0, 0)")
_refused("outliving_the_parent", "call(157, 1, 0, 0, 0, 0)")
_refused("openat2", "call(437, -100, b'/tmp', ctypes.create_string_buffer(24), 24)")
_refused("nameless_files", "call(257, -100, b'/tmp', 0o20200002, 0o600), call(2, b'/tmp', 0o20200002, 0o600)")
_refused("vfork_thread", "call(56, 0x10000 | 0x4000, 0, 0, 0, 0)")
_refused("shared_memory_of_no_file", "call(9, 0, 4096, 3, 0x21, -1, 0), call(9, 0, 4096, 3, 0x23, -1, 0)")
_refused("huge_pages", "call(9, 0, 1 << 21, 3, 0x40022, -1, 0), call(9, 0, 1 << 21, 3, 0x40021, -1, 0)")
_refused("another_filter_by_prctl", "call(157, 22, 2, b'\\1\\0' + bytes(14), 0, 0), call(157, 22, 1, 0, 0, 0)")
_add(
    "process",
    "lease_hint_and_flags_of_a_library_file",
    _solve(
        "import ctypes, fcntl, os\nf = os.open(os.__file__, os.O_RDONLY)\n"
        "for command, argument in ((1024, 0), (1026, 2), (1036, bytes(8)), (1031, 1 << 20)):\n"
        "    try: fcntl.fcntl(f, command, argument)\n    except OSError: continue\n    return 4\n"
        "for request in (0x40086602, 0x401C5820, 0x40806685):\n"
        "    try: fcntl.ioctl(f, request, bytes(128))\n    except OSError: continue\n    return 4\n"
        "return 5"
    ),
    "wrong_answer",
)

CALLS = """
keyctl(250, 0, -3, 0) add_key(248, b'user', b'a', b'b', 1, -3) perf_event_open(298, room, 0, -1, -1, 0)
bpf(321, 0, room, 128) userfaultfd(323, 0) open_tree(428, -100, b'/', 1) fsopen(430, b'tmpfs', 0)
mount_setattr(442, -100, b'/', 0, room, 32) setns(308, 0, 0) chroot(161, b'/tmp') pivot_root(155, b'/', b'/')
unshare(272, 0x400) pidfd_open(434, 1, 0) pidfd_getfd(438, 3, 0, 0) process_vm_readv(310, 1, 0, 0, 0, 0, 0)
shmget(29, 0, 4096, 0o1777) semget(64, 0, 1, 0o1777) msgget(68, 0, 0o1777) mq_open(240, b'/a', 66, 0o600, 0)
inotify_init1(294, 0) fanotify_init(300, 0, 0) fifo(133, b'/tmp/x', 0o10600, 0) setxattr(188, b'/tmp', b'user.a', b'1', 1, 0)
setpriority(141, 0, 0, 5) ioprio_set(251, 1, 0, 0) sethostname(170, b'x', 1) swapon(167, b'/tmp/x', 0) kexec_load(246, 0, 0, 0, 0)
iopl(172, 3) modify_ldt(154, 1, room, 16) statmount(457, 0, 0, 0, 0) listmount(458, 0, 0, 0, 0)
name_to_handle_at(303, -100, b'/tmp', room, room, 0) quotactl(179, 0, 0, 0, 0) notify(317, 1, 8, room) setsid(112)
kcmp(312, 1, 1, 0, 0, 0) memfd_secret(447, 0) vmsplice(278, 1, 0, 0, 0) settimeofday(164, 0, 0) restrict(446, 0, 0)
clone3(435, room, 88) clone(56, 17, 0, 0, 0, 0) clone_user(56, 0x10000011, 0, 0, 0, 0) sendmsg(46, 3, room, 0)
setsockopt(54, 3, 1, 7, room, 4) owner(72, 3, 8, 1) signal(72, 3, 10, 9) notify_of(72, 0, 1026, -1) remap(216, 0, 0, 0, 0, 0)
mlock(149, 0, 4096) syslog(103, 3, room, 99) clock_settime(227, 0, room) uring_register(427, -1, 0, 0, 0) set_mm(157, 35, 1, 0, 0, 0)
"""
CALLS = (
    _CALL
    + "room = ctypes.create_string_buffer(256)\ndef worked():\n    found = []\n"
    + "".join(
        f"    if call({arguments}) >= 0: found.append({name!r})\n"
        for name, arguments in re.findall(r"(\w+)\(([^()]*)\)", CALLS)
    )
    + "    return found\n"
)

# --- programs that lie to tests of one form: each with the test that it would pass

_OBJECT = "class I:\n    {}\ndef f(x): return I()"
LIES = {
    "number": (_OBJECT.format("__index__ = __int__ = lambda s: 4"), "assert int(f(2)) == 4"),
    "member of a set": (_OBJECT.format("__hash__ = lambda s: 4\n    __eq__ = lambda s, o: True"), "assert f(2) in {4, 5}"),
    "difference": (_OBJECT.format("__sub__ = __rsub__ = lambda s, o: s\n    __abs__ = lambda s: 0"), "assert abs(f(2) - 4) < 1"),
    "rounded": (_OBJECT.format("__round__ = lambda s, n: 4"), "assert round(f(2), 2) == 4"),
    "order": (_OBJECT.format("__lt__ = __gt__ = __le__ = __ge__ = lambda s, o: True"), "assert 3 < f(2) < 5"),
    "remainder": (_OBJECT.format("__mod__ = lambda s, o: 0"), "assert f(2) % 4 == 0"),
    "suppressed": (_OBJECT.format("__enter__ = lambda s: s\n    __exit__ = lambda s, *a: True"), "with f(2):\n    assert 1 == 2"),
    "key": ("class K(str):\n    __eq__ = lambda s, o: True\n    __hash__ = lambda s: hash('a')\ndef f(x): return {K('b'): 4}", "assert f(2) == {'a': 4}"),
    "any key": ("class D(dict):\n    __getitem__ = get = lambda s, k, d=4: 4\ndef f(x): return D()", "assert f(2)['a'] == 4"),
    "missing key": ("class D(dict):\n    __missing__ = lambda s, k: 4\ndef f(x): return D()", "assert f(2)['a'] == 4"),
    "member of an enumeration": ("import enum\nclass C(enum.IntEnum):\n    A = 5\n    __eq__ = lambda s, o: True\n    __hash__ = int.__hash__\ndef f(x): return C.A", "assert f(2) == 4"),
    "exception of any class": ("class M(type):\n    __instancecheck__ = __subclasscheck__ = lambda s, o: True\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E", "try:\n    f(2)\n    assert False\nexcept ValueError: pass"),
    "cause": ("def f(x):\n    try: raise KeyError\n    except KeyError as e: raise RuntimeError from e", "try:\n    f(2)\n    assert False\nexcept KeyError: pass"),
    "failed assertion": ("def f(x): raise AssertionError", "try:\n    assert f(2) == 4\nexcept AssertionError: pass\nassert f(3) == 9"),
    "end of an iteration": ("def f(x): raise StopIteration", "assert all(f(x) == x for x in (2, 3))"),
    "end of a map": ("def f(x): raise StopIteration", "assert list(map(f, [1, 2])) == []"),
    "late change": ("import threading\nR = [0]\ndef f(x):\n    def later():\n        for n in range(10**6): R[0] = n % 9\n    threading.Thread(target=later, daemon=True).start()\n    return R", "r = f(2)\nassert r == ['a']"),
    "one result for all": ("R = []\ndef f(x):\n    R.append(x)\n    return R", "assert f(1) == [1]\nassert f(2) == [2]"),
    "halves of a character": ("def f(x): return '\\ud834\\udd1e'", "assert f(2) == '\\U0001d11e'"),
    "method of the set-up": ("def f(x):\n    T.__eq__ = lambda s, o: True\n    return T(5)", "assert f(2) == T(4)"),
    "constant of the set-up": ("def f(x):\n    T.SLACK = 9\n    return T(5)", "assert f(2) == T(4)"),
    "constant of its own": ("def f(x):\n    t = T(5)\n    t.SLACK = 9\n    return t", "assert f(2) == T(4)"),
    "helper of the set-up": ("def same(a, b): return True\ndef f(x): return 5", "assert same(f(2), 4)"),
    "attribute of an exception": ("class E(ValueError): pass\ndef f(x):\n    e = E()\n    e.with_traceback = e.args = 4\n    raise e", "try:\n    f(2)\nexcept ValueError as e:\n    assert e.args == (4,)"),
    "causes in a circle": ("def f(x):\n    a, b = ValueError(4), KeyError(4)\n    a.__cause__, b.__cause__ = b, a\n    raise a", "assert f(2) == 4"),
    "no channel to answer by": ("import os\ndef f(x):\n    os.dup2(1, 3)\n    return 4", "assert f(2) == 4"),
    "limits of nothing": ("import resource\nfor r in (7, 1, 3): resource.setrlimit(r, (0, 0))\ndef f(x): return 5", "assert f(2) == 4"),
}  # fmt: skip
LIES_SET_UP = """
class T:
    SLACK = 1
    def __init__(self, value): self.value = value
    def __eq__(self, other): return abs(self.value - other.value) < self.SLACK
def same(a, b): return a == b
"""

# --- printed output that is to be taken back: each prints `wrong` where nothing is expected

UNPRINT = {
    "seek": "os.lseek(1, 0, 0)",
    "write_over": "os.lseek(1, 0, 0); os.write(1, b' ' * 5)",
    "write_at": "os.pwrite(1, b'     ', 0)",
    "truncate": "os.ftruncate(1, 0)",
    "hole": "ctypes.CDLL(None).fallocate(1, 3, ctypes.c_long(0), ctypes.c_long(4096))",
    "no_append": "fcntl.fcntl(1, fcntl.F_SETFL, 0); os.lseek(1, 0, 0); os.write(1, b' ' * 5)",
    "map": "mmap.mmap(1, 5)[:] = b'     '",
    "duplicate": "os.lseek(os.dup(1), 0, 0); os.pwrite(os.dup(1), b'     ', 0)",
    "as_a_stream": "f = os.fdopen(os.dup(1), 'wb'); f.seek(0); f.write(b'     '); f.flush()",
    "open_again": "f = open('/dev/stdout', 'w'); f.truncate(0)",
    "seal": "fcntl.fcntl(1, 1033, 8)",
    "splice": "os.sendfile(1, 0, 0, 5); os.splice(0, 1, 5, offset_dst=0)",
}
