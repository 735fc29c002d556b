"""The fork server: a warm, confined interpreter that forks a process per judge and per candidate.

It never reads a program, a test or a value: those go through sockets that it only hands on. One thread, one loop.
Started by `python -c` with a clean environment; it dies with its host and takes every process with it.
"""

import contextlib
import fcntl
import gc
import json
import os
import random
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from socket import socketpair
from typing import Any

from . import candidate, codec, confine, judge
from .suite import compile_suite

PRELOADED = [
    "abc",
    "ast",
    "bisect",
    "builtins",
    "collections",
    "collections.abc",
    "contextlib",
    "copy",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "re",
    "string",
    "typing",
]
LOOK = struct.pack("ll", 0, 20_000)
"""A timeval: a judge looks at the clocks this often while its program is silent."""
_SUB_ID = 200_001
"""The host's user id of programs when the server runs as root."""
_INSIDE_ID = 1000
_REAP_GRACE_S = 0.2
_SPARES = 6
_LOOK_EVERY = 64
"""Candidates."""
_IDLE = 0.25
"""Share of the time for which a processor had nothing to do, from which on it is worth moving to."""
_CROWDED = 0.25
"""Share of a processor's time that others take, from which on another one is looked for."""
_STARVED = 0.75
"""Share from which on any other one will do."""
_DESCRIPTORS = 128
_PROCESSES = 64
_JUDGE_MEMORY = 2 << 30
_OWN_MEMORY = 512 << 20
"""On top of what is loaded, so that a fault here ends this server and not the machine."""
_STREAMS = ("stdin", "stdout", "stderr")
_MODES = (os.O_RDONLY, *(os.O_WRONLY | os.O_APPEND,) * 2)
"""Of a candidate's streams: what is printed can be neither read nor taken back."""
_RESERVED = 5
"""Descriptors of a judge; a candidate has one less."""
_BUSY_TRIES = 50
_LONG_AGO = 0
"""When a scratch was changed, as long as its program has not changed it."""


def main() -> None:
    """Arguments: the control descriptor and the configuration as JSON."""
    control = socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, _RESERVED))
    os.close(int(sys.argv[1]))
    while os.open(os.devnull, os.O_RDWR) < _RESERVED - 1:
        pass  # the numbers that a child's own descriptors get are taken
    config = json.loads(sys.argv[2])
    with contextlib.suppress(OSError):
        confine.die_with_parent()
    confine.name_process("zygote")
    server = Server(control, config)
    try:
        _preload(config["preload"])
    except Exception as error:  # noqa: BLE001 - whatever a module raises when it is imported
        control.send(codec.pack({"refused": f"a module cannot be preloaded: {type(error).__name__}: {error}"}))
        os._exit(1)
    try:
        server.prepare()
    except Exception as error:  # noqa: BLE001 - the host decides what to do without this layer
        control.send(codec.pack({"failed": f"{type(error).__name__}: {error}"}))
        os._exit(1)
    server.serve()


class _Judge:
    """A judge process and the candidate that it has at the moment."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.candidate = 0


class _Place:
    """The processor that a fork server shares with its judges and candidates.

    They run in turns, one waiting for the other: on two processors every turn would wake a sleeping one. Where others
    take part of the place and another processor idles, all of them move there; where others take most of it, anywhere.
    Or they stay, as chance decides, because two fork servers that met must not move together.
    """

    def __init__(self, number: int) -> None:
        self._allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._here = self._allowed[number % len(self._allowed)] if self._allowed else -1
        self._left = 0
        self._last: tuple[float, float, dict[int, float]] | None = None

    def take(self) -> None:
        if len(self._allowed) > 1:
            os.sched_setaffinity(0, [self._here])

    def look(
        self, own: Callable[[], float], idle: Callable[[], dict[int, float]], pids: Callable[[], list[int]]
    ) -> None:
        """Every so often, see how much of the place others took: what was neither idle nor used by these processes."""
        self._left -= 1
        if self._left > 0 or len(self._allowed) < 2:
            return
        self._left = _LOOK_EVERY
        before, self._last = self._last, (time.monotonic(), own(), idle())
        if before is None:
            return
        (since, used, rested), (now, uses, rests) = before, self._last
        took = max(now - since, 1e-3)
        shares = {number: (rests.get(number, 0.0) - rested.get(number, 0.0)) / took for number in self._allowed}
        others = 1 - shares[self._here] - (uses - used) / took
        there = max(shares, key=lambda number: shares[number])
        if others < _CROWDED or shares[there] < max(_IDLE, 2 * shares[self._here]):
            if others < _STARVED:
                return
            there = self._allowed[os.urandom(1)[0] % len(self._allowed)]
        if os.urandom(1)[0] % 2:
            self._here = there
            for pid in (0, *pids()):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(pid, [there])


class Server:
    """The state of one fork server."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._control = control
        self._config = config
        self._layers = confine.Layers()
        self._namespaces: bool = bool(config["namespaces"]) and confine.LINUX
        self._scratch = confine.TMP
        self._file_mb = -1
        self._processes = -1
        self._own_pid_namespace = -1
        self._last_pid = -1
        self._rules: dict[str, int] = {}
        self._filter: confine.SeccompFilter | None = None
        self._threads = (_PROCESSES, _PROCESSES)
        self._base = {"as": 1 << 28, "data": 1 << 26}
        self._judges: dict[int, _Judge] = {}
        self._dead: dict[int, dict[str, Any]] = {}
        self._spares: list[tuple[int, socket.socket, list[int]]] = []
        self._home = "/"
        self._handed_out = 0
        self._poll = select.poll()
        self._place = _Place(config["place"])

    # --- once

    def prepare(self) -> None:
        """Take on every layer that is to hold the children. Raises OSError where the namespaces are refused."""
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
        for name in ("RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE"):
            if hasattr(resource, name):
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(getattr(resource, name), (0, 0))
        self._layers.add("rlimits")
        self._root = os.getuid() == 0
        self._identity = 0
        readable, hidden = _python_paths()
        if self._namespaces:
            self._enter_namespaces(readable, hidden)
            readable, hidden = [[confine.placed(path) for path in paths] for paths in (readable, hidden)]
            _place_modules()
            self._layers.add("namespaces")
        if not self._namespaces:
            self._layers.lack("namespaces", self._config.get("why", "not asked for"))
            if os.path.isdir("/proc/self"):
                self._processes = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self._prepare_landlock(readable, hidden)
        if self._root and not self._namespaces and not (self._rules and _private(os.__file__)):
            self._identity = _SUB_ID
        if self._config["seccomp"] and confine.seccomp_available():
            self._layers.add("seccomp")
            self._filter = confine.SeccompFilter()
        else:
            self._layers.lack("seccomp", "the kernel or the machine's architecture does not offer it")
        if not self._namespaces and self._writable():
            import tempfile

            self._scratch = tempfile.mkdtemp(prefix="mucode-")
            os.chmod(self._scratch, 0o777)  # noqa: S103 - its programs may run as another user
            confine.outlive_parent()  # the end of the control socket ends it, and leaves it the time to clean up
        self._measure()
        self._place.take()
        _environment(self._scratch)
        os.chdir("/")
        if self._writable():
            self._home = self._scratch
        if not self._namespaces and self._writable():
            self._top = os.open(self._scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self._inherited()

    def _inherited(self) -> None:
        """Everything that a child can get by being forked, so that it need not do it itself."""
        candidate.limit_resources([("RLIMIT_NOFILE", _DESCRIPTORS)])
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        self._threads = (_PROCESSES, _PROCESSES) if hard == resource.RLIM_INFINITY else (min(_PROCESSES, hard),) * 2
        if self._identity:
            os.setgroups([])
        if confine.LINUX:
            confine.no_new_privileges()
            confine.undumpable()

    def _writable(self) -> bool:
        """Files may be written where all of them together can be bounded, or where nothing better is to be had."""
        return self._namespaces or "landlock" not in self._layers.names

    def _enter_namespaces(self, readable: list[str], hidden: list[str]) -> None:
        user, group = os.getuid(), os.getgid()
        flags = (
            confine.NEW_USER | confine.NEW_PID | confine.NEW_NET | confine.NEW_NS | confine.NEW_IPC | confine.NEW_UTS
        )
        if self._root:
            self._identity = _unshare_as_root(flags)
        else:
            confine.unshare(flags)
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {user} 1")
            _write("/proc/self/gid_map", f"0 {group} 1")
        pid = os.fork()
        if pid:
            confine.die_with_parent()
            self._control.close()
            os.waitpid(pid, 0)
            os._exit(0)
        confine.die_with_parent()
        with contextlib.suppress(OSError):
            socket.sethostname("sandbox")
        self._processes = confine.new_root(readable, hidden)
        self._mount_scratch(16)
        link = os.open("self/ns/pid", os.O_RDONLY, dir_fd=self._processes) if self._processes >= 0 else -1
        if link < 0:
            raise OSError("no /proc can be mounted in the new namespaces")
        self._own_pid_namespace = link
        with contextlib.suppress(OSError):  # a kernel that cannot restore checkpoints
            self._last_pid = os.open("sys/kernel/ns_last_pid", os.O_WRONLY, dir_fd=self._processes)

    def _prepare_landlock(self, readable: list[str], hidden: list[str]) -> None:
        if not (self._config["landlock"] and confine.landlock_abi()):
            self._layers.lack("landlock", "the kernel does not offer it")
            return
        rules = [(path, confine.DEVICE) for path in confine.DEVICES]
        for path in readable:
            inside = [place for place in hidden if place.startswith(path + "/")]
            rules += _rules_around(path, inside)
        self._rules["judge"] = confine.landlock_ruleset(rules)
        if self._namespaces:
            rules.append((confine.WRITABLE, confine.READ_WRITE))
        self._rules["candidate"] = confine.landlock_ruleset(rules)
        self._layers.add("landlock")

    def _measure(self) -> None:
        """Memory that the interpreter itself takes: the limits of a program come on top of it."""
        if self._processes >= 0:
            with open(os.open("self/statm", os.O_RDONLY, dir_fd=self._processes)) as file:
                fields = [int(field) for field in file.read().split()]
            page = resource.getpagesize()
            self._base = {"as": fields[0] * page + (64 << 20), "data": fields[5] * page + (4 << 20)}
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]  # stays: children may be given more
            most = fields[5] * page + _OWN_MEMORY
            resource.setrlimit(
                resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
            )

    def _own_s(self) -> float:
        """Processor seconds of this server and its children."""
        times = os.times()
        total = times.user + times.system + times.children_user + times.children_system
        for held in self._judges.values():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(os.open(f"{held.pid}/schedstat", os.O_RDONLY, dir_fd=self._processes)) as file,
            ):
                total += int(file.read().split()[0]) / 1e9
        return total

    def _idle(self) -> dict[int, float]:
        """By processor, the seconds for which it had nothing to do."""
        try:
            with open(os.open("stat", os.O_RDONLY, dir_fd=self._processes)) as file:
                rows = [line.split() for line in file if line[:3] == "cpu" and line[3].isdigit()]
        except OSError:
            return {}
        return {int(row[0][3:]): int(row[4]) / os.sysconf("SC_CLK_TCK") for row in rows}

    def _pids(self) -> list[int]:
        judges = list(self._judges.values())
        return (
            [pid for pid, *_ in self._spares] + [judge.pid for judge in judges] + [judge.candidate for judge in judges]
        )

    # --- the loop

    def serve(self) -> None:
        """Until the host is gone."""
        candidate.standard_streams()
        candidate.standard_names()
        candidate.bounded_stacks()
        candidate.private_memory()
        if self._filter is not None:
            socket.socketpair = candidate.wake_pair  # type: ignore[assignment]
        random.seed(0)
        self._program = candidate.Program(self._home)
        self._program.warm_up()
        _warm_up()
        gc.collect()
        gc.freeze()
        gc.disable()
        ready = {"ready": self._layers.names, "missing": self._layers.missing, "pid": os.getpid()}
        self._control.send(codec.pack(ready))
        self._poll.register(self._control, select.POLLIN)
        while True:
            events = self._poll.poll(None if self._spares else 0)
            for descriptor, _ in events:
                if descriptor == self._control.fileno():
                    self._serve_host()
                elif descriptor in self._judges:
                    self._serve_judge(self._judges[descriptor])
            if not events:
                with contextlib.suppress(OSError):
                    self._fork_spares()

    def _serve_host(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._end()
        message = codec.unpack(data[codec.HEADER.size :])
        if message["op"] == "judge":
            try:
                self._control.send(codec.pack({"pid": self._fork_judge(descriptors[0])}))
            except OSError as error:
                self._control.send(codec.pack({"error": f"no judge could be started: {error}"}))
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            judge = next((judge for judge in self._judges.values() if judge.pid == message["pid"]), None)
            if judge is not None:
                self._bury(judge, _REAP_GRACE_S if message["grace"] else 0.0)
            self._control.send(codec.pack(self._dead.pop(message["pid"], {"status": 0, "killed": True})))

    def _serve_judge(self, judge: _Judge) -> None:
        try:
            data = judge.channel.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._bury(judge)
            return
        operation, number = codec.REQUEST.unpack(data)
        try:
            if operation == b"f":
                self._hand_over(judge, number)
            elif operation == b"s":
                judge.channel.send(json.dumps(self._schedule(number)).encode())
            else:
                end = self._reap(judge.candidate, _REAP_GRACE_S if operation == b"w" else 0.0)
                judge.channel.send(codec.END.pack(end["status"], end["killed"], end["cpu"], end["rss_mb"]))
                judge.candidate = 0
                self._take_back()
                self._place.look(self._own_s, self._idle, self._pids)
        except OSError:  # the judge went away meanwhile: the loop buries it
            pass

    def _hand_over(self, judge: _Judge, file_mb: int) -> None:
        try:
            self._hand_out(file_mb)
            if not self._spares:
                self._fork_spares(1)
            spare = self._spares.pop(0)
        except OSError as error:
            judge.channel.send(f"no process could be started: {error}".encode())
            return
        pid, channel, streams = spare
        judge.candidate = pid
        socket.send_fds(judge.channel, [codec.PID.pack(pid)], [channel.fileno(), *streams])
        channel.close()
        for descriptor in streams:
            os.close(descriptor)

    # --- processes

    def _fork_spares(self, count: int = _SPARES) -> None:
        """Candidates ahead of need, together and in a tight loop: after a fork the server's every first write to a
        page copies it.
        """
        made = [
            (*socketpair(socket.AF_UNIX, codec.CHANNEL), [_memory_file(name) for name in _STREAMS])
            for _ in range(count)
        ]
        given = [[*map(self._reopened, streams, _MODES)] for _, _, streams in made]
        for ours, _, _ in made:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # one system call where poll would need two
                ours.setsockopt(socket.SOL_SOCKET, option, LOOK)
        started = 0
        try:
            for (ours, theirs, streams), own in zip(made, given, strict=True):
                pid = self._fork(apart=True)
                if pid == 0:
                    self._become("candidate", [*own, theirs.fileno()])
                self._spares.append((pid, ours, streams))
                started += 1
        finally:
            for ours, _, streams in made[started:]:
                ours.close()
                for descriptor in streams:
                    os.close(descriptor)
            for _, theirs, _ in made:
                theirs.close()
            for descriptor in [number for own in given for number in own]:
                os.close(descriptor)

    def _fork_judge(self, host: int) -> int:
        ours, theirs = socketpair(socket.AF_UNIX, codec.PACKETS)
        null = os.open(os.devnull, os.O_RDWR)
        pid = self._fork(apart=False)
        if pid == 0:
            self._become("judge", [null, null, null, host, theirs.fileno()])
        theirs.close()
        os.close(null)
        self._judges[ours.fileno()] = _Judge(pid, ours)
        self._poll.register(ours, select.POLLIN)
        return pid

    def _fork(self, *, apart: bool) -> int:
        """A child, in a process namespace of its own or in the server's, where it can read the clocks of the rest.

        Its number here is drawn: a later child finds it in what it inherits, and threads of programs would count it up.
        """
        if self._namespaces:
            confine.enter_namespace(self._own_pid_namespace, confine.NEW_PID)  # undoes the last unshare
            if apart:
                confine.unshare(confine.NEW_PID)
        if self._last_pid >= 0:
            with contextlib.suppress(OSError):
                os.pwrite(self._last_pid, b"%d" % (int.from_bytes(os.urandom(2)) >> 1), 0)
        return os.fork()

    def _become(self, name: str, descriptors: list[int]) -> None:
        """In the child: nothing but these descriptors, less identity, every layer, then the role. Never returns.

        Every object that it touches costs a page, so it does little and builds nothing.
        """
        try:
            os.setsid()  # signals to "my process group" reach nobody else
            for target, source in enumerate(descriptors):
                os.dup2(source, target)
            self._confine(name, len(descriptors))
            if name == "candidate":
                candidate.main(self._program)
            else:
                judge.main(self._base)
        finally:
            os._exit(codec.FAILED)

    def _reopened(self, descriptor: int, mode: int) -> int:
        """The same file, for this use only; where there is no /proc, for any use."""
        if self._processes < 0:
            return os.dup(descriptor)
        return os.open(f"self/fd/{descriptor}", mode, dir_fd=self._processes)

    def _confine(self, name: str, descriptors: int) -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, self._threads)
        if name == "judge":
            candidate.limit_resources([("RLIMIT_DATA", _JUDGE_MEMORY)])
        identity = self._identity
        if identity:
            os.setresgid(identity, identity, identity)
            os.setresuid(identity, identity, identity)
        if not confine.LINUX:
            confine.close_from(descriptors)
            return
        confine.drop_capabilities()
        confine.undumpable()  # a new identity made it dumpable again
        confine.die_with_parent()
        confine.name_process(name)
        if name in self._rules:
            confine.landlock_restrict(self._rules[name])
        confine.close_from(descriptors)
        if self._filter is not None:
            self._filter.install(os.getpid())

    def _reap(self, pid: int, grace: float) -> dict[str, Any]:
        """Wait for a process that is about to end, or end it."""
        if not pid:
            return {"status": 0, "killed": True}
        until = time.monotonic() + grace
        gone, status, usage = os.wait4(pid, os.WNOHANG)
        while not gone and time.monotonic() < until:
            time.sleep(0.0005)
            gone, status, usage = os.wait4(pid, os.WNOHANG)
        killed = not gone
        if killed:
            _kill(pid)
            _, status, usage = os.wait4(pid, 0)
        rss_mb = usage.ru_maxrss / (1024 if confine.LINUX else 1 << 20)
        return {"status": status, "killed": killed, "cpu": usage.ru_utime + usage.ru_stime, "rss_mb": rss_mb}

    def _bury(self, judge: _Judge, grace: float = _REAP_GRACE_S) -> None:
        """End a judge and its candidate; how it ended is kept until the host asks."""
        self._poll.unregister(judge.channel)
        del self._judges[judge.channel.fileno()]
        judge.channel.close()
        if judge.candidate:
            self._reap(judge.candidate, 0.0)
            self._take_back()
        self._dead[judge.pid] = self._reap(judge.pid, grace)

    def _schedule(self, pid: int) -> dict[str, Any]:
        """The state of a process, and the seconds for which its first thread ran, and was ready but not run."""
        try:
            with open(os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=self._processes)) as file:
                run, delay = (int(part) / 1e9 for part in file.read().split()[:2])
            with open(os.open(f"{pid}/stat", os.O_RDONLY, dir_fd=self._processes)) as file:
                state = file.read().rpartition(")")[2].split()[0]
            if state in "Tt" and not self._namespaces:
                state = "S"  # only the first process of a namespace cannot stop itself
        except (OSError, ValueError, IndexError):
            return {"delay": 0.0, "run": 0.0, "state": "?"}
        return {"delay": delay, "run": run, "state": state}

    def _end(self) -> None:
        for held in list(self._judges.values()):
            _kill(held.candidate)
            _kill(held.pid)
        for pid, *_ in self._spares:
            _kill(pid)
        if self._scratch != confine.TMP:
            for pid in [held.candidate for held in self._judges.values()]:
                self._reap(pid, 0.0)  # nothing may write there any more
            self._clean()
            with contextlib.suppress(OSError):
                os.rmdir(self._scratch)
        os._exit(0)

    # --- scratch

    def _mount_scratch(self, file_mb: int) -> None:
        confine.mount_scratch(file_mb)
        self._file_mb = file_mb

    def _hand_out(self, file_mb: int) -> None:
        """The scratch for the next program, of that size and with times that no earlier one has set."""
        if self._namespaces:
            if file_mb != self._file_mb:
                self._unmount_scratch()
                self._mount_scratch(file_mb)
            os.utime(confine.SCRATCH, ns=(_LONG_AGO, _LONG_AGO))
            self._handed_out = os.stat(confine.SCRATCH).st_ctime_ns

    def _take_back(self) -> None:
        """A new scratch where the program has used it: its numbers and times would say so to the next."""
        if not self._namespaces:
            return self._clean()
        found = os.stat(confine.SCRATCH)
        used = (found.st_mtime_ns, found.st_ctime_ns) != (_LONG_AGO, self._handed_out)
        if used or self._filter is None:  # which keeps programs from setting times, and from files without a name
            self._unmount_scratch()
            self._mount_scratch(self._file_mb)
        return None

    def _unmount_scratch(self) -> None:
        """Not by detaching it: as long as it exists, the next one gets another device number, which programs see."""
        for _ in range(_BUSY_TRIES):
            try:
                return confine.unmount(confine.SCRATCH, detach=False)
            except OSError:  # the kernel still frees what a program has sent to itself
                time.sleep(0.001)
        self._end()
        return None

    def _clean(self) -> None:
        """Empty a scratch of the host without following links and without long paths: directories are made shallow."""
        if not self._writable():
            return
        top, fresh = self._top, os.urandom(16).hex()  # names that no program can have taken
        number = 0
        with contextlib.suppress(OSError):
            while names := os.listdir(top):
                for name in names:
                    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
                        os.unlink(name, dir_fd=top)
                        continue
                    os.chmod(name, 0o700, dir_fd=top)
                    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                    for below in os.listdir(inner):
                        number += 1
                        os.rename(below, f"{fresh}{number}", src_dir_fd=inner, dst_dir_fd=top)
                    os.close(inner)
                    os.rmdir(name, dir_fd=top)


def _unshare_as_root(flags: int) -> int:
    """Two identities: the server's own, and an unprivileged one for its children, which is returned."""
    read_end, write_end = os.pipe()
    done_read, done_write = os.pipe()
    server = os.getpid()
    helper = os.fork()
    if helper == 0:  # stays outside, where it may write a map of two lines
        os.close(write_end)
        os.read(read_end, 1)
        with contextlib.suppress(OSError):
            for kind in ("uid_map", "gid_map"):
                _write(f"/proc/{server}/{kind}", f"0 0 1\n{_INSIDE_ID} {_SUB_ID} 1\n")
            os.write(done_write, b"x")
        os._exit(0)
    confine.unshare(flags)
    os.close(done_write)
    os.write(write_end, b"x")
    mapped = os.read(done_read, 1) == b"x"
    for descriptor in (read_end, write_end, done_read):
        os.close(descriptor)
    os.waitpid(helper, 0)
    if not mapped:
        raise OSError("the identity map of a new user namespace was refused")
    return _INSIDE_ID


def _private(path: str) -> bool:
    """Another user may not read what lies there, such as an interpreter in root's home."""
    parts = [path, *(os.path.dirname(path[: index + 1]) for index, part in enumerate(path) if part == "/" and index)]
    return not all(os.stat(part).st_mode & 1 << (0 if os.path.isdir(part) else 2) for part in parts)


def _preload(modules: list[str]) -> None:
    if modules:
        sys.path.extend(json.loads(os.environ.get("MUCODE_PATHS", "[]")))
    for name in (*PRELOADED, *modules):
        __import__(name)


def _python_paths() -> tuple[list[str], list[str]]:
    """What a program may read: the standard library, the shared libraries, the preloaded packages; and what not."""
    import sysconfig

    paths = sysconfig.get_paths()
    library = {os.path.realpath(paths["stdlib"]), os.path.realpath(paths["platstdlib"])}
    packages = {os.path.join(place, name) for place in library for name in ("site-packages", "dist-packages")}
    readable = {*library, *_shared_libraries(), *_packages(library, packages), "/usr/share/zoneinfo"}
    existing = {path for path in readable if os.path.lexists(path)}
    outer = {path for path in existing if not any(path != other and path.startswith(other + "/") for other in existing)}
    inner = {path for path in existing - outer if any(path.startswith(place + "/") for place in packages)}
    return sorted(outer | inner, key=len), sorted(packages)


def _packages(library: set[str], packages: set[str]) -> set[str]:
    """Files and directories of what was preloaded, and of what that has imported, both before and behind links."""
    found = set[str]()
    for name, module in list(sys.modules.items()):
        places = [*getattr(module, "__path__", [])] or [getattr(module, "__file__", None)]
        file = getattr(module, "__file__", None)
        if "." in name or name in (__package__, "__main__") or not all(places):
            continue
        places += [os.path.join(os.path.dirname(place), name + ".libs") for place in places]
        if file and os.path.basename(file).startswith("__init__."):
            places.append(os.path.dirname(os.path.realpath(file)))
        for place in {*places, *map(os.path.realpath, places)}:
            ours = any(place.startswith(path + "/") for path in library)
            if not ours or any(place.startswith(path + "/") for path in packages):
                found.add(place)
    return found


def _place_modules() -> None:
    """Modules that are imported later are looked for where they stand in the new root."""
    sys.path[:] = map(confine.placed, sys.path)
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        path = getattr(module, "__path__", None)
        if isinstance(path, list):
            path[:] = map(confine.placed, path)
        if getattr(module, "__file__", None):
            module.__file__ = confine.placed(str(module.__file__))


def _shared_libraries() -> set[str]:
    """The directories of the shared libraries, for extension modules that are loaded later."""
    places = {"/lib", "/lib64", "/usr/lib", "/usr/lib64"} if confine.LINUX else set[str]()
    if os.path.isdir(os.path.join(sys.base_prefix, "conda-meta")):
        places.add(os.path.join(sys.base_prefix, "lib"))
    return {place for place in places if os.path.isdir(place)}


def _rules_around(path: str, hidden: list[str]) -> list[tuple[str, int]]:
    """Rules that let read all below `path` but not `hidden`: directories on the way can be listed only."""
    if path in hidden:
        return []
    if not any(place.startswith(path + "/") for place in hidden):
        return [(path, confine.READ)]
    rules = [(path, confine.LIST)]
    for name in os.listdir(path):
        rules += _rules_around(f"{path}/{name}", hidden)
    return rules


def _environment(scratch: str) -> None:
    values = {"PATH": "/usr/bin:/bin", "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    values |= {"TZ": "UTC", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    os.environ.clear()
    os.environ.update(values)
    time.tzset()
    sys.argv[:] = [candidate.FILENAME]
    sys.path[:] = [path for path in sys.path if path]
    sys.setrecursionlimit(1000)
    os.umask(0o077)
    sys.dont_write_bytecode = True


def _warm_up() -> None:
    """Touch once what every child uses, so that their pages are shared."""
    value = [1, 2.5, "x", (1,), {1: 2}, {3}, None]
    codec.decode(codec.unpack(codec.pack(codec.encode(value))[codec.HEADER.size :]))
    compile_suite("", ["def check(candidate):\n    assert candidate(1) == [2]"], "f")


def _memory_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        made = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return made
    import tempfile

    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _kill(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        if not confine.LINUX:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
