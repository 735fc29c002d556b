"""The judge's side of the conversation with a candidate: supervised requests, and stand-ins for its objects."""

import builtins
import contextlib
import enum
import functools
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from . import codec, enums
from .mirror import Mirror
from .together import STATUSES

_LOOK_COUNTS_S = 0.1
"""A longer gap between two looks means that the judge itself was not run: it does not count as waiting. The kernel is
asked about a silent program this often.
"""
_SPANS = 4
"""Of wall time that a program may get where the machine keeps it from running."""
MUTABLE = (list, dict, set, bytearray)
"""Beside those of `collections`: a program may change them where it got them."""
Back = Literal["never", "none", "always"]
"""When the test sees what the program changed in its arguments: where it returns None, for `none`."""
_PLAIN = (int, str, float, bool, type(None), bytes)
_DATA = (*_PLAIN, *MUTABLE, tuple, frozenset, complex, range, slice)
_MOST_OBJECTS = 20_000
"""Handles of one conversation."""
_MOST_RECEIVED = 32 << 20
"""Bytes of one conversation: a few hundred MB when decoded."""


_LOOSE = "the test and the program share too many values, and some have crossed as copies"
_MOST_USES = 1000
_MOST_CAUSES = 20
PLAIN_BASE = "the program gave an object of a class of its own, judged as its plain base"
INTERFERED = "the program interfered with the channel that carries its values"
_LIGHT = 4096
"""Bytes of a message whose values cost next to nothing."""
_MOST_GROWTH = 256 << 20
"""Bytes by which one conversation may make the judge grow, and on top of it 32 for each that a value may have."""


def peak_memory() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (10 if sys.platform.startswith("linux") else 0)


def too_slow(*_: Any) -> None:
    """Of a value that is being rebuilt: the handler of SIGVTALRM."""
    raise Ended("timeout", "rebuilding its values takes too long")


class Ended(BaseException):
    """The program is over; `status` says how. A test may swallow it; `Conversation.fate` remembers."""

    def __init__(self, status: str, error: str, exit_code: int | None = None, *, by_test: bool = False) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.exit_code = exit_code
        self.by_test = by_test
        """The test alone is what cannot be judged: it would be so for every program."""


_TEST_FRAMEWORKS = {"unittest", "doctest"}
"""A program that raises what these skip or stop by would end a test that way."""


class InvalidTest(Ended):
    """The test is at fault: it can judge no program."""

    def __init__(self, error: str) -> None:
        super().__init__("unjudged", error, by_test=True)


class NotData(BaseException):
    """The test did with an object of the program what cannot be judged safely."""

    def __init__(self, status: str, error: str, *, by_test: bool = False) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.by_test = by_test
        """As of `Ended`."""


class Doubt(NamedTuple):
    """Why a failed test is `unjudged`; empty where it is not."""

    why: str
    by_test: bool = False
    """As of `Ended`."""


class RemoteError(Exception):
    """An exception of the program whose type is none of the built-in ones."""


class ForkServer:
    """Requests to the fork server that owns the candidates."""

    def __init__(self, channel: socket.socket, base: dict[str, int]) -> None:
        self._channel = channel
        self.base = base
        """Bytes that the interpreter itself takes."""

    def fork(self, file_mb: int) -> tuple[int, socket.socket, list[int]]:
        """Process id, channel and standard streams of a confined process that waits for its program."""
        self._channel.send(codec.REQUEST.pack(b"f", file_mb))
        data, descriptors, _, _ = socket.recv_fds(self._channel, 4096, 4)
        if len(descriptors) != 4:
            raise Ended("infra", data.decode() or "the fork server is gone")
        family = (socket.AF_UNIX, codec.CHANNEL, 0)  # said here, or three system calls find it out
        return codec.PID.unpack(data)[0], socket.socket(*family, fileno=descriptors[0]), descriptors[1:]

    def reap(self, pid: int, *, wait: bool) -> dict[str, Any]:
        """How the candidate ended: at once, or after a moment in which it may end by itself."""
        end = codec.END.unpack(self._ask(b"w" if wait else b"r", pid))
        return dict(zip(("status", "killed", "cpu", "rss_mb"), end, strict=True))

    def schedule(self, pid: int) -> dict[str, Any]:
        """The state of a process, and the seconds for which it was ready to run but did not."""
        answer: dict[str, Any] = json.loads(self._ask(b"s", pid))
        return answer

    def _ask(self, operation: bytes, pid: int) -> bytes:
        self._channel.send(codec.REQUEST.pack(operation, pid))
        data = self._channel.recv(4096)
        if not data:
            raise Ended("infra", "the fork server is gone")
        return data


class Conversation:
    """One candidate process: requests go in, plain values come back, and the clock runs.

    CPU time decides a time-out: `time_s` for each span between two calls of `begin`. Wall time is the backstop for a
    program that waits of its own will. It counts only while this process watches, and is extended where the machine
    kept the program from running: then the end is `infra`, and the job is tried again.
    """

    def __init__(self, server: ForkServer, limits: dict[str, Any], spans: int) -> None:
        self._server = server
        self._time_s = float(limits["time_s"])
        self._output = int(limits["output_kb"]) * 1024
        self._memory_mb = int(limits["memory_mb"])
        self._limits = limits
        self._spans = spans
        self.pid, self._channel, self._streams = server.fork(int(limits["file_mb"]))
        self._main, self._set_up = False, True
        self.fate: Ended | NotData | None = None
        """The end of the program, or what this span's test did that cannot be judged: the first, whatever follows."""
        self.mentioned: frozenset[str] = frozenset()
        """Names in the test. One that names StopIteration or SystemExit means to see it; any other must not lose it."""
        self.doubt = Doubt("")
        """Why a failure of this test may be owed to the two processes, and not to the program."""
        self.all_changes = False
        """The test sees the changed arguments of a call that returned something, too."""
        self.plain_base = False
        """It has given an object of a class of its own, which has the equality of its plain base."""
        self.uses = set[str]()
        """Names of interest that the program has used."""
        self.unseen = False
        """There was such a change, and the test has not seen it."""
        self.changing = False
        """The test may change values in place."""
        self.keeping = False
        """The test may look at values later."""
        self.space: dict[str, Any] = {}
        """The test's names."""
        self._variables: dict[str, Any] = {}
        """The values of the program's variables among them."""
        self._lock = threading.RLock()
        self.contended = False
        """Threads of the test wanted to call the program at the same time."""
        self._end: dict[str, Any] | None = None
        self._clock = (~self.pid << 3) | 2  # CPUCLOCK_SCHED of another process
        self._cpu = 0.0
        self.calls = 0
        self.last_call: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
        self.last_value: Any = None
        self._mirror = Mirror(0, self._opaque, self._special)
        self.records = self._mirror.records
        self._objects: dict[int, Handle] = {}
        self._enumerations: dict[str, Any] = {}
        """The program's enumerations that the test has as its own."""
        self.again = ""
        """An enumeration that the set-up defines and the program defines again: its members are others for the test."""
        self._given: Any = None
        """The forms of the functions and classes that the test has by name, as they were told when it was loaded."""
        self._guards: dict[Any, type] = {}
        """Classes in place of the program's that are derived from plain types."""
        self._callbacks: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._exceptions: dict[str, type[Exception]] = {}
        self._received = self._size = 0
        self._rest = b""
        """Of the channel, what has come behind a message."""
        self._peak = peak_memory() + _MOST_GROWTH + 32 * self._output
        self.begin()

    # --- clock

    def begin(self) -> None:
        """Start a new span of CPU time, for another test."""
        if isinstance(self.fate, NotData):
            self.fate = None
        self.doubt, self.contended, self.unseen, self.plain_base = Doubt(""), False, False, False
        self._cpu_start = self.cpu_s()
        self._waited = self._held = self._disk = self._asked = 0.0
        self._schedule: dict[str, Any] | None = None
        self._seen = time.monotonic()
        self._wall_limit = 2 * self._time_s + 1

    def cpu_s(self) -> float:
        """CPU seconds of the process so far."""
        if self._end is None:
            try:
                self._cpu = time.clock_gettime(self._clock)
            except (OSError, AttributeError, OverflowError):
                if not hasattr(time, "pthread_getcpuclockid"):  # macOS: no such clock, so wall time stands for it
                    self._cpu = time.monotonic()
        return self._cpu

    def span_s(self) -> float:
        return max(self.cpu_s() - self._cpu_start, 0.0)

    def _look(self) -> None:
        """Raises Ended when a clock has run out."""
        if self.cpu_s() - self._cpu_start >= self._time_s:
            raise self._stop("timeout", f"used more than {self._time_s:g} s of CPU time")
        now = time.monotonic()
        self._waited += min(now - self._seen, _LOOK_COUNTS_S)
        self._seen = now
        if self._waited < self._asked + _LOOK_COUNTS_S:
            return
        self._ask()
        self._asked = self._waited
        if self.too_much_output():
            raise self._stop("output_limit", f"printed more than {self._output // 1024} kB")
        if self._waited - self._held - self._disk > self._wall_limit:
            raise self._stop("timeout", f"no answer within {self._waited:.1f} s of wall time")
        if self._waited > _SPANS * self._wall_limit:
            given = f"{self.span_s():.2f} s of CPU in {self._waited:.0f} s"
            if self._disk > self._held:  # which a program can arrange
                raise self._stop("timeout", f"waited for the disk: {given}")
            raise self._stop("infra", f"the machine gave the program {given}")

    def _ask(self) -> None:
        """Count the time since the last question for which the machine kept the program from running.

        It is what the kernel has counted, or all of it where the program was ready, stopped or waiting for a disk at
        both ends and did not run in between: a program that sleeps runs when it wakes and before it sleeps again.
        """
        now, before = {**self._server.schedule(self.pid), "cpu": self.cpu_s()}, self._schedule
        self._schedule = now
        if before is None:
            return
        took = self._waited - self._asked
        ran, delayed = (float(now[key]) - float(before[key]) for key in ("run", "delay"))
        by_itself = max(float(now["cpu"]) - float(before["cpu"]) - ran, 0.0)  # its other threads ran meanwhile
        states = {str(now["state"]), str(before["state"])}
        if ran == 0 and states <= {"R", "T", "t"}:
            self._held += max(took - by_itself, 0.0)
        elif ran == 0 and states == {"D"}:
            self._disk += took
        else:
            self._held += min(max(delayed - by_itself, 0.0), took)

    # --- messages

    def load(
        self,
        setup: str,
        code: str,
        names: list[str],
        *,
        marks: str = "",
        main: bool = False,
        together: bool = False,
    ) -> dict[str, str]:
        """Run the program's module. Returns the kinds of those `names` that it defines. It tells of the use of names
        that the pattern `marks` finds.
        """
        limits = {"rlimits": self._rlimits(), "output": self._output}
        message = {"op": "load", "setup": setup, "code": code, "names": names, "limits": limits, "main": main}
        message["together"] = together
        if marks:
            message["marks"] = marks
        self._main, self._set_up = main, not setup
        answer = self._request(message)
        kinds = answer.get("names")
        if not isinstance(kinds, dict):
            raise self._broken()
        self._take_enumerations(answer.get("enums"))
        self._given, self.again = answer.get("objects"), str(answer.get("again") or "")[:80]
        return {name: str(kinds[name]) for name in names if name in kinds}

    def _take_enumerations(self, told: Any) -> None:
        """The program's, as classes of the test."""
        for name, description in told.items() if isinstance(told, dict) else ():
            made = self._bounded(self._enumeration, name, description)
            self.records[name] = self._enumerations[name] = made

    def _enumeration(self, name: str, description: Any) -> Any:
        def ask(operation: str, *arguments: Any, **keywords: Any) -> Any:
            if _showing:
                return lambda *_: f"{name}.{arguments[0].name}"
            if operation in _OF_ENUMERATIONS:
                what = f"the test {_OF_ENUMERATIONS[operation]} {name} or of a member, a class of the program"
                raise self.settled(NotData("unjudged", what))
            return self.operate(operation, name, arguments, keywords)

        try:
            return enums.made(name, description, ask)
        except Exception:  # noqa: BLE001 - no honest program describes that
            raise codec.Malformed(name) from None

    def run_test(self, source: str, entry_point: str | None) -> dict[str, Any]:
        """What the program's own process says of a test that it ran."""
        verdict = self._request({"op": "test", "source": source, "entry_point": entry_point})["ok"]
        if not isinstance(verdict, dict) or str(verdict.get("status")) not in STATUSES:
            raise self._broken()
        told = {key: str(verdict.get(key, ""))[:500] for key in ("status", "error", "test")}
        return {**told, "traceback": _texts(verdict.get("traceback"))}

    def feed(self, text: str) -> None:
        """Standard input, before the program is loaded."""
        data = text.encode("utf-8", "surrogateescape")
        offset = 0
        while offset < len(data):
            offset += os.pwrite(self._streams[0], data[offset:], offset)

    def operate(
        self,
        operation: str,
        target: int | str,
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
        *,
        back: Back = "never",
        **extra: Any,
    ) -> Any:
        """What the program answers. Raises its exceptions; Ended when it is over; NotData for what cannot be judged."""
        if not self._lock.acquire(blocking=False):
            self.contended = True
            self._lock.acquire()
        try:
            if self.fate is not None:
                raise self.fate
            return self._operate(operation, target, arguments, keywords, back, extra)
        except (Ended, NotData) as fate:
            raise self.settled(fate) from None
        finally:
            self._lock.release()

    def settled(self, fate: "Ended | NotData") -> "Ended | NotData":
        """`fate`, remembered where it is the first."""
        self.fate = self.fate or fate
        return fate

    def note(self, why: str, *, by_test: bool = False) -> None:
        """A failure of this test may have that reason: the first counts, one of the test alone before the others."""
        if not self.doubt.why or (by_test and not self.doubt.by_test):
            self.doubt = Doubt(why, by_test=by_test)

    def _operate(
        self,
        operation: str,
        target: int | str,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any] | None,
        back: Back,
        extra: dict[str, Any],
    ) -> Any:
        self.calls += 1
        message: dict[str, Any] = {"op": operation, "target": target, **extra}
        values = (*arguments, *(keywords or {}).values())
        try:
            forms = self._give(values, message, shares=back != "never" or self.changing or self.keeping)
        except codec.NotPlain as error:
            by_test = self.calls == 1  # later, what it passes may hold what the program gave
            raise NotData("unjudged", f"the test passes what cannot be copied: {error}", by_test=by_test) from None
        message["args"] = forms[: len(arguments)]
        if keywords:
            message["kw"] = dict(zip(keywords, forms[len(arguments) :], strict=True))
        answer = self._request(message, values, always=back == "always")
        message.clear()  # it refers to parts of the arguments
        if operation == "next":
            items = answer.get("items")
            if not isinstance(items, list) or len(items) > 1:
                raise self._broken()
            return [self._decode(item) for item in items], self._decode(answer.get("ok"))
        value = self.last_value = self._decode(answer.get("ok"))
        return value

    def _give(self, values: tuple[Any, ...], message: dict[str, Any], *, shares: bool) -> list[Any]:
        """The forms of values, with what is shared with the program where it may be seen later."""
        if shares and self._mirror.unneeded(values):
            message["sync"] = None
            return [self._encode(value) for value in values]
        if not (shares or self._mirror):
            try:
                return [self._encode(value) for value in values]
            except codec.NotPlain:  # the mirror knows what contains itself
                pass
        forms, message["sync"] = self._mirror.forms(values)
        if self._mirror.loose:
            self.note(_LOOSE)
        return forms

    def _take(self, answer: dict[str, Any], values: tuple[Any, ...], *, always: bool) -> None:
        """What the program has changed, and new values.

        What the test gave keeps its content, in place of the program's changes, unless they are in the arguments of a
        call without a result, or the test sees all changes.
        """
        section, names = answer.get("sync"), answer.get("names") or {}
        if isinstance(section, dict):
            nothing = answer.get("ok") is None and answer.keys().isdisjoint(("items", "exc", "callback"))
            given = values if always or nothing else ()
            seen = functools.cache(lambda: self._mirror.within(given))
            keep = _none if self.all_changes else lambda number: number % 2 == 0 and number not in seen()
            self.unseen |= self._bounded(self._mirror.apply, section, keep)
            if self._mirror.loose:
                self.note(_LOOSE)
        for name, form in names.items() if isinstance(names, dict) else ():
            if name in self._variables and self.space.get(name) is self._variables[name]:
                self.space[name] = self._variables[name] = self._decode(form)

    def _request(
        self, message: dict[str, Any], values: tuple[Any, ...] = (), *, always: bool = False
    ) -> dict[str, Any]:
        self._seen = time.monotonic()
        self._send(message)
        while True:
            answer = self._receive()
            if "uses" in answer:
                self._note_use(str(answer["uses"]))
                continue
            if "ready" in answer:
                self._set_up = True
                continue
            if "callback" not in answer:
                break
            served = self._serve_callback(answer)
            self._seen = time.monotonic()
            self._send(served)
        if "sync" in answer:
            self._take(answer, values, always=always)
        if "exc" in answer:
            raise self._exception(answer)
        if "deep" in answer:
            raise NotData("unjudged", "the program gave a value that is nested too deeply or contains itself")
        if "big" in answer:
            raise self._stop("output_limit", f"a returned value is larger than {self._output // 1024} kB")
        if "syntax" in answer:
            syntax = answer["syntax"] if isinstance(answer["syntax"], dict) else {}
            ended = self._stop("syntax_error", str(syntax.get("error", ""))[:500])
            ended.frames = _texts(syntax.get("frames"))  # type: ignore[attr-defined]
            raise ended
        if "setup" in answer and not self._set_up:
            raise InvalidTest(f"the set-up code failed: {answer['setup']}"[:500])
        if "ok" not in answer:
            raise self._broken()
        return answer

    def _note_use(self, name: str) -> None:
        if len(self.uses) < _MOST_USES:
            self.uses.add(name[:80])

    def _serve_callback(self, answer: dict[str, Any]) -> dict[str, Any]:
        number, forms, keywords = answer.get("callback"), answer.get("args"), answer.get("kw")
        if not (type(number) is int and 0 <= number < len(self._callbacks)):
            raise self._broken()
        if not (isinstance(forms, list) and isinstance(keywords, dict)):
            raise self._broken()
        self._take(answer, (), always=False)
        arguments = [self._decode(item) for item in forms]
        named = {str(name): self._decode(item) for name, item in keywords.items()}
        served: dict[str, Any]
        try:
            value = self._callbacks[number](*arguments, **named)
            served = {"op": "return"}
            (served["value"],) = self._give((value,), served, shares=True)
        except Exception as error:  # noqa: BLE001 - the test's function failed on what the program gave it
            served = {"op": "raise", "kind": type(error).__name__, "value": str(error)[:500]}
            self._give((), served, shares=True)
        return served

    def _send(self, message: dict[str, Any]) -> None:
        data = memoryview(codec.pack(message))
        while data:
            try:
                data = data[self._channel.send(data[: codec.PART]) :]
            except BlockingIOError:
                self._look()
            except OSError:
                raise self._died() from None

    def _receive(self) -> dict[str, Any]:
        buffer: bytes | bytearray = self._rest
        size = _size_of(buffer)
        while size < 0 or len(buffer) < size:
            try:
                part = self._channel.recv(1 << 16)
            except BlockingIOError:
                self._look()
                continue
            except OSError:
                part = b""
            if not part:
                raise self._died()
            if buffer:  # what comes in drops may never end
                self._look()
            buffer = codec.joined(buffer, part)
            if size < 0:
                size = _size_of(buffer)
                if size > codec.SHARED * self._output + 2 * codec.SLACK:
                    raise self._stop("output_limit", f"a returned value is larger than {self._output // 1024} kB")
        self._look()
        self._size = size
        try:
            message = codec.unpack(memoryview(buffer)[codec.HEADER.size : size])
        except codec.Malformed:
            raise self._broken() from None
        self._rest = bytes(buffer[size:])
        unasked = self._rest and (not isinstance(message, dict) or message.keys().isdisjoint(("uses", "ready")))
        if not isinstance(message, dict) or unasked:
            raise self._broken()
        self._received += size // codec.SHARED if "sync" in message else size
        if self._received > _MOST_RECEIVED:
            raise self._stop("output_limit", f"returned more than {_MOST_RECEIVED >> 20} MB in all")
        if size > self._output + 2 * codec.SLACK and "sync" not in message:
            raise self._stop("output_limit", f"a returned value is larger than {self._output // 1024} kB")
        return message

    # --- values

    def _encode(self, value: Any) -> Any:
        return codec.encode(value, self._opaque)

    def _opaque(self, value: Any, depth: int, seen: tuple[int, ...]) -> Any:
        if isinstance(value, Remote):
            return ["H", value.mucode_target]
        known = self.records.get(type(value).__name__) is type(value)
        if isinstance(value, enum.Enum):
            if known and (form := enums.form_of(type(value), value)):
                return form
            known = False
        if isinstance(value, enum.EnumMeta) and self.records.get(value.__name__) is value:
            return enums.form_of(value, value)
        if issubclass(type(value), codec.BASES):
            if codec.own_names(value):
                what = f"the test passes a {type(value).__name__}, and its methods stay with the test"
                raise self.settled(NotData("unjudged", what, by_test=True))
            self.note("the test passes an object of a class of its own, and its plain base arrives", by_test=True)
            return codec.encode(codec.plain(value), self._opaque, depth + 1, seen)
        if known and hasattr(value, "__dict__"):
            fields = {key: codec.encode(item, self._opaque, depth + 1, seen) for key, item in vars(value).items()}
            return ["o", [type(value).__name__, fields]]
        if callable(value) and not isinstance(value, type):
            return ["C", [self._callback(value), str(getattr(value, "__name__", ""))]]
        if hasattr(type(value), "__next__") and not hasattr(value, "read"):
            return ["i", self._callback(_Items(value))]
        what = f"the test passes a {type(value).__name__}, which is not plain data"
        raise NotData("unjudged", what, by_test=True)

    def _callback(self, value: Any) -> int:
        key = value if isinstance(value, types.FunctionType | types.MethodType) else id(value)
        number = self._numbers.setdefault(key, len(self._callbacks))
        if number == len(self._callbacks):
            self._callbacks.append(value)
        return number

    def _decode(self, form: Any) -> Any:
        if type(form) in codec.SCALARS:
            return form
        return self._bounded(self._mirror.decode, form)

    def _bounded(self, rebuild: Callable[..., Any], *forms: Any) -> Any:
        """What it costs to rebuild a value has limits."""
        heavy = self._size > _LIGHT
        if heavy:
            signal.setitimer(signal.ITIMER_VIRTUAL, self._time_s)
        try:
            return rebuild(*forms)
        except codec.Malformed:
            raise self._broken() from None
        except MemoryError:
            raise self._too_heavy() from None
        finally:
            if heavy:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                if peak_memory() > self._peak:
                    raise self._too_heavy()

    def _too_heavy(self) -> Ended:
        return self._stop("output_limit", "its values need too much memory")

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "fields":
            return self._fields(*body)
        if tag == "H":
            number, kind, name = int(body[0]), str(body[1]), str(body[2])
            if number not in self._objects:
                if len(self._objects) == _MOST_OBJECTS:
                    raise self._stop(
                        "output_limit", f"returned more than {_MOST_OBJECTS} objects that are not plain data"
                    )
                made = self._objects[number] = Handle(self, number, kind, name)
                object.__setattr__(made, "mucode_by_identity", body[3] is True)
            return self._objects[number]
        if tag in ("C", "i"):
            function = self._callbacks[body]
            if isinstance(function, _Items) is not (tag == "i"):
                raise ValueError(tag)
            return function.iterator if tag == "i" else function
        if tag == "u":
            self.plain_base = True
            name, own, form = body
            return self._guarded(str(name), tuple(map(str, own)), codec.decode(form, self._mirror.special))
        if tag == "e":
            name, key = body
            if self._enumerations.get(name, self.records[name]) is not self.records[name]:
                raise NotData("unjudged", f"the program gave a {name} of its own, and the set-up defines one")
            return enums.of_form(self.records[name], key)
        if tag == "o":
            fields = self._fields(*body)
            return codec.rebuild(self.records[body[0]], fields, lambda form: codec.decode(form, self._mirror.special))
        raise ValueError(tag)

    def _guarded(self, name: str, own: tuple[str, ...], content: Any) -> Any:
        """An object like one of the program's class `name`: the content is compared, its `own` methods are not used."""
        base: Any = type(content)
        if not issubclass(base, codec.BASES):
            raise ValueError(name)
        if (kind := self._guards.get((name, base, own))) is None:
            space = {each: self._guard(each, base) for each in own if each.isidentifier() and each not in codec.MAKING}
            kind = self._guards[name, base, own] = type(name, (base,), {**space, "__module__": "solution"})
        if base not in (list, dict, set):
            return (tuple if issubclass(base, tuple) else base).__new__(kind, content)
        made: Any = base.__new__(kind)
        (list.extend if base is list else base.update)(made, content)
        return made

    def _guard(self, name: str, base: Any) -> Any:
        def refuse(value: Any, *_: Any, **__: Any) -> Any:
            if _showing and name in ("__repr__", "__str__"):
                return base.__repr__(value)
            what = f"the test needs {name!r} of an object of the program, which is judged as its plain base"
            raise self.settled(NotData("unjudged", what))

        return refuse if name[:2] == name[-2:] == "__" else property(refuse)

    def _fields(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        """What the program may set of an instance of a class of the set-up."""
        kind = self.records[name]
        if any(field.startswith("__") for field in fields):
            raise ValueError(name)
        if any(field.isupper() and hasattr(kind, field) for field in fields):
            raise NotData("unjudged", f"the program gave a {name} with a constant of its own")
        return codec.own_fields(kind, fields)

    @property
    def guards(self) -> set[type]:
        """Classes that stand for the program's own."""
        return set(self._guards.values())

    def is_shared(self, value: Any) -> bool:
        """A value that can be changed is one object for the test and the program."""
        return not self._mirror.loose and bool(self._mirror.tag(value))

    def named(self, name: str, kind: str) -> Any:
        """The stand-in for a name of the program's module."""
        if kind.startswith("exception:"):
            *own, known = kind.partition(":")[2].split(",")
            if not all(map(str.isidentifier, own)):
                raise self._broken()
            base = codec.builtin_error(known) or Exception
            for each in [*reversed(own), name]:
                base = self._exceptions.setdefault(each, type(each, (base,), {}))
            return base
        if kind in ("function", "class"):
            form = self._given.get(name) if isinstance(self._given, dict) else None
            given = self._decode(form) if type(form) is list else None
            if issubclass(type(given), enum.EnumMeta):  # isinstance would ask the program for its class
                self.calls += 1  # the test reads what the program has told
                return given
            return Remote(self, name, kind, name, given if isinstance(given, Handle) else None)
        self._variables[name] = self.operate("name", name, back="always")
        return self._variables[name]

    def _exception(self, answer: dict[str, Any]) -> BaseException:
        name, message = str(answer["exc"])[:80], str(answer.get("message", ""))[:500]
        kinds = [str(kind) for kind in answer["kinds"]] if isinstance(answer.get("kinds"), list) else []
        detail = f"{name}: {message}" if message else name
        leaving = next((kind for kind in kinds if kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit")), None)
        if leaving in self.mentioned:
            return _as_raised(getattr(builtins, leaving or ""), answer)
        if leaving:
            return self._stop("early_exit", f"the program raised {detail}")
        if "MemoryError" in kinds:
            return self._stop("memory", f"needs more than {self._memory_mb} MB")
        error = self._rebuilt(answer, kinds)
        error.mucode_error = detail  # type: ignore[attr-defined]
        error.mucode_frames = _texts(answer.get("frames"))  # type: ignore[attr-defined]
        return error

    def _rebuilt(self, answer: dict[str, Any], kinds: list[str], depth: int = 0) -> Exception:
        """An exception of the program, with its causes."""
        homes = answer["homes"] if isinstance(answer.get("homes"), list) else []
        known = self._error_type(kinds, [str(home) for home in homes])
        message = str(answer.get("message", ""))[:500]
        arguments: list[Any] = []
        with contextlib.suppress(Exception):  # what is not plain
            arguments = self._decode(answer["args"])
        if issubclass(known, BaseExceptionGroup):
            message, _, _ = message.rpartition(" (")  # which `str` adds
            arguments = [message, self._causes(answer.get("parts"), depth) or [RemoteError(message)]]
        error = _made(known, arguments, message)
        _tell(error, answer, self._decode)
        for name in ("context", "cause"):
            if found := self._causes([answer.get(name)], depth):
                setattr(error, f"__{name}__", found[0])
        error.__suppress_context__ = answer.get("suppress") is True
        return error

    def _causes(self, answers: Any, depth: int) -> list[Exception]:
        """Those that are described."""
        listed = answers[:_MOST_CAUSES] if isinstance(answers, list) and depth < _MOST_CAUSES else []
        found = [answer for answer in listed if isinstance(answer, dict) and isinstance(answer.get("kinds"), list)]
        return [self._rebuilt(answer, [str(kind) for kind in answer["kinds"]], depth + 1) for answer in found]

    def _error_type(self, kinds: list[str], homes: list[str]) -> type[Exception]:
        """The type of an exception from the names of its classes, most special first.

        Those that the tests know, from the program or the set-up, all together: `except Base` catches what is a Base.
        """
        own: list[type[Exception]] = []
        for kind in kinds:
            found = self._exceptions.get(kind, self.records.get(kind))
            if isinstance(found, type) and issubclass(found, Exception) and not any(issubclass(o, found) for o in own):
                own.append(found)
        if own:
            try:
                return own[0] if len(own) == 1 else type(own[0].__name__, tuple(own), {})
            except TypeError:  # no order of these bases is consistent
                return own[0]
        for kind, home in zip(kinds, homes, strict=False):
            standard = (
                getattr(sys.modules.get(home), kind, None)
                if home.partition(".")[0] in sys.stdlib_module_names - _TEST_FRAMEWORKS
                else None
            )
            if home != "builtins" and isinstance(standard, type) and issubclass(standard, Exception):
                return standard
        known = next((kind for kind in map(codec.builtin_error, kinds) if kind), RemoteError)
        stops = known in (StopIteration, StopAsyncIteration) and known.__name__ not in self.mentioned
        return RuntimeError if stops else known

    # --- the end

    def output(self, limit: int, *, error: bool = False, errors: str = "replace") -> str:
        """What the program wrote to standard output, or to standard error: at most `limit` bytes of it."""
        return os.pread(self._streams[1 + error], min(limit, self._written(1 + error)), 0).decode("utf-8", errors)

    def _written(self, stream: int) -> int:
        return os.fstat(self._streams[stream]).st_size

    def too_much_output(self) -> bool:
        """Standard output and error together."""
        return self._written(1) + self._written(2) > self._output

    def close(self) -> dict[str, Any]:
        """End the process and free what it held. Returns its CPU seconds and peak memory."""
        self._guards.clear()
        self._enumerations.clear()
        self._objects.clear()  # they hold this conversation, and the collector is off
        self._callbacks.clear()
        self._numbers.clear()
        self._mirror.close()
        self._variables.clear()
        self.last_call = self.last_value = self.fate = None
        end = self._reap()
        self._channel.close()
        for stream in self._streams:
            os.close(stream)
        return end

    def _reap(self) -> dict[str, Any]:
        if self._end is None:
            self.cpu_s()
            self._end = self._server.reap(self.pid, wait=False)
            self._cpu = float(self._end.get("cpu", self._cpu))
        return self._end

    def _stop(self, status: str, error: str) -> Ended:
        return Ended(status, error)

    def _broken(self) -> Ended:
        return self._stop("early_exit", INTERFERED)

    def _died(self) -> Ended:
        if self._end is None:
            self.cpu_s()
            self._end = self._server.reap(self.pid, wait=True)
        end = self._end
        status, used = int(end.get("status", 0)), self.span_s()
        if end.get("killed"):
            return Ended("early_exit", "the program closed the channel that carries its values")
        if not os.WIFSIGNALED(status):
            code = os.WEXITSTATUS(status)
            early = "" if self._main else " before it answered"
            return Ended("early_exit", f"the program ended with exit code {code}{early}", code)
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
        if name == "SIGXCPU" or (name == "SIGKILL" and used >= self._time_s):
            return Ended("timeout", f"used more than {self._time_s:g} s of CPU time")
        if end.get("oom") or (name == "SIGKILL" and float(end.get("rss_mb", 0)) > 0.9 * self._memory_mb):
            return Ended("memory", f"needs more than {self._memory_mb} MB")
        return Ended("early_exit", f"the program was ended by {name}")

    def _rlimits(self) -> list[tuple[str, int]]:
        memory = self._memory_mb << 20
        base = self._server.base
        cpu = int(self._time_s * self._spans) + 2
        files = max(int(self._limits["file_mb"]) << 20, self._output + (1 << 20))
        return [
            ("RLIMIT_CPU", cpu),
            ("RLIMIT_FSIZE", files),
            ("RLIMIT_DATA", memory + int(base.get("data", 0))),
            ("RLIMIT_AS", memory + int(base.get("as", 1 << 28))),
        ]


_OF_OBJECTS = {"__mro_entries__": "derives a class from", "__reduce_ex__": "pickles"}
"""Names that Python and its library look for on the object itself, and what a test does then."""
_OF_ENUMERATIONS = {"reduce": "pickles", "set": "sets an attribute of", "dir": "lists the attributes of"}


class Remote:
    """A function, class or object of the program. Comparing it is refused: the program would decide the outcome."""

    def __init__(
        self, conversation: Conversation, target: int | str, kind: str, name: str, given: "Handle | None" = None
    ) -> None:
        object.__setattr__(self, "mucode_conversation", conversation)
        object.__setattr__(self, "mucode_target", target)
        object.__setattr__(self, "mucode_kind", kind)
        object.__setattr__(self, "mucode_name", name)
        object.__setattr__(self, "mucode_object", self if given is None else given)
        object.__setattr__(self, "mucode_by_identity", given is not None and given.mucode_by_identity)

    mucode_conversation: Conversation
    mucode_target: int | str
    mucode_kind: str
    mucode_name: str
    mucode_object: "Remote"
    """One for each object, whether the test has it by a name or not."""
    mucode_by_identity: bool
    """Nothing but itself equals it, as its class said when it was given."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self.mucode_call(arguments, keywords)

    def mucode_call(self, arguments: tuple[Any, ...], keywords: dict[str, Any], *, back: Back = "none") -> Any:
        conversation = self.mucode_conversation
        conversation.last_call = (self.mucode_name, arguments, keywords)
        return conversation.operate("call", self.mucode_target, arguments, keywords, back=back)

    def mucode_do(self, operation: str, *arguments: Any) -> Any:
        """The program's answer to one of its operations."""
        return self.mucode_conversation.operate(operation, self.mucode_target, arguments)

    def mucode_type(self) -> Any:
        """Its class, which is none of those whose objects are plain data, whatever the object says."""
        value = self.mucode_do("get", "__class__")
        if any(value is kind for kind in _DATA):
            raise self.mucode_unjudged("asks for the type of")
        return value

    def mucode_text(self) -> str:
        """For messages: asks the program nothing."""
        return f"<{self.mucode_name} object>" if type(self) is Handle else f"<{self.mucode_kind} {self.mucode_name}>"

    def __getattribute__(self, name: str) -> Any:
        """Attributes are the program's, those that Python itself would find here included."""
        if name.startswith("mucode_") or name == "__deepcopy__":
            return object.__getattribute__(self, name)
        if name == "__class__":
            conversation = self.mucode_conversation
            conversation.note(f"the test asks for the type of {self.mucode_text()}")
            return self.mucode_type()
        if name in _OF_OBJECTS:
            raise self.mucode_unjudged(_OF_OBJECTS[name])
        value = self.mucode_do("get", name)
        if type(value) is Handle and value.mucode_kind == "function":
            object.__setattr__(value, "mucode_name", f"{self.mucode_name}.{name}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self.mucode_do("set", name, value)

    def __delattr__(self, name: str) -> None:
        self.mucode_do("delete", name)

    def __instancecheck__(self, instance: Any) -> bool:
        if not isinstance(instance, Remote):
            conversation = self.mucode_conversation
            if type(instance) in conversation.guards:
                raise self.mucode_unjudged("asks what is a")
            if type(instance) not in (*_PLAIN, *MUTABLE):
                conversation.note(f"the test asks whether a plain value is a {self.mucode_name}")
            return False
        return instance.mucode_do("isinstance", self) is True

    def __subclasscheck__(self, other: Any) -> bool:
        if not isinstance(other, Remote):
            raise self.mucode_unjudged("asks what is a subclass of")
        return self.mucode_do("subclass", other) is True

    def __len__(self) -> int:
        length = self.mucode_do("len")
        return length if type(length) is int else -1

    def __getitem__(self, key: Any) -> Any:
        return self.mucode_do("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.mucode_do("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self.mucode_do("delitem", key)

    def __contains__(self, item: Any) -> bool:
        """By iteration: the program is not asked whether it holds what the test expects."""
        try:
            return any(item is held or item == held for held in self)
        except TypeError:
            raise self.mucode_unjudged("asks what is in") from None

    def __str__(self) -> str:
        return str(self.mucode_do("str"))

    def __repr__(self) -> str:
        return self.mucode_text() if _showing else str(self.mucode_do("repr"))

    def __format__(self, specification: str) -> str:
        return str(self.mucode_do("format", specification))

    def __enter__(self) -> Any:
        return self.mucode_do("get", "__enter__")()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if error is not None:
            raise self.mucode_unjudged("raises an exception within")
        return self.mucode_do("get", "__exit__")(None, None, None)

    def __copy__(self) -> Any:
        return self.mucode_do("copy")

    def __deepcopy__(self, _: Any) -> Any:
        return self.mucode_do("deepcopy")

    def __iter__(self) -> Iterator[Any]:
        iterator = self if self.mucode_kind == "iterator" else self.mucode_do("iter")
        return iterator if isinstance(iterator, Remote) else iter(iterator)

    def __next__(self) -> Any:
        items, returned = self.mucode_do("next")
        if not items:
            raise StopIteration(returned)
        return items[0]

    def __eq__(self, other: object) -> Any:
        conversation = self.mucode_conversation
        if conversation.fate is not None:
            raise conversation.fate
        if isinstance(other, Remote):
            if self.mucode_equality() == other.mucode_equality() == "none":
                return self.mucode_is(other)
            what = "two objects of the program are compared: it would decide the outcome itself"
            raise conversation.settled(NotData("unjudged", what))
        equality = "own" if callable(other) else self.mucode_equality()
        if equality == "none":
            return NotImplemented
        what = f"the program gave {self.mucode_text()}, which is not plain data"
        status = "unjudged" if equality == "own" else "wrong_answer"
        what += ", and its class decides what equals it" if equality == "own" else ""
        raise conversation.settled(NotData(status, what))

    def mucode_is(self, other: "Remote") -> bool:
        """Two handles are of two objects. Which object a name stands for was told with the name."""
        self.mucode_conversation.calls += 1  # the test reads what the program has told
        return self.mucode_object is other.mucode_object

    def __bool__(self) -> bool:
        return self.mucode_kind == "function" or self.mucode_do("truth") is True

    def mucode_equality(self) -> str:
        """Whether its class decides what equals it: `own`, `none`, or `any` where it would equal anything."""
        return "none" if self.mucode_by_identity else str(self.mucode_do("equality"))

    def __hash__(self) -> int:
        return object.__hash__(self.mucode_object) if self.mucode_by_identity else int(self.mucode_refuse())

    def mucode_refuse(self, *_: Any) -> Any:
        raise self.mucode_unjudged("needs the order or hash of")

    def mucode_refuse_to_compute(self, *_: Any) -> Any:
        raise self.mucode_unjudged("computes with")

    def mucode_unjudged(self, what: str) -> BaseException:
        fate = NotData("unjudged", f"the test {what} {self.mucode_text()}, which is not plain data")
        return self.mucode_conversation.settled(fate)

    __lt__ = __le__ = __gt__ = __ge__ = __index__ = __int__ = __float__ = mucode_refuse
    __complex__ = __bytes__ = __reversed__ = __await__ = __aiter__ = __anext__ = __aenter__ = __aexit__ = mucode_refuse
    __round__ = __trunc__ = __floor__ = __ceil__ = __divmod__ = __rdivmod__ = mucode_refuse_to_compute
    __fspath__ = mucode_refuse_to_compute


def _computing(operation: str) -> Any:
    """Of two objects of the program; beside a value of the test it would see, and answer for, what is expected."""

    def compute(self: Remote, *others: Any) -> Any:
        if not all(isinstance(other, Remote) for other in others):
            raise self.mucode_unjudged("computes with")
        return self.mucode_do(operation, *others)

    return compute


for _name in codec.OPERATORS:
    setattr(Remote, f"__{_name}__", _computing(_name))
    if _name[0] != "i" and _name not in ("neg", "pos", "abs", "invert"):
        setattr(Remote, f"__r{_name}__", Remote.mucode_refuse_to_compute)


class Handle(Remote):
    """An object that the program returned: the same one for the same object."""


def show(value: Any) -> str:
    """A bounded repr of plain data, for messages. The program is not asked for anything."""
    _showing.append(True)
    try:
        text = repr(value)
    except (Exception, NotData, Ended):  # noqa: BLE001 - huge integers, deep nests, what a class of the set-up says
        text = f"<{type(value).__name__}>"
    finally:
        _showing.pop()
    return text


_showing: list[bool] = []


def _size_of(data: bytes | bytearray) -> int:
    """Of the frame that begins so; -1 where that is not known yet."""
    return -1 if len(data) < codec.HEADER.size else codec.HEADER.size + codec.HEADER.unpack_from(data)[0]


def _none(_: int) -> bool:
    """Of the test's values, it keeps none as it was."""
    return False


class _Items:
    """An iterator of the test, as the program reads it: a call gives the next item, if there is one."""

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def __call__(self) -> list[Any]:
        for item in self.iterator:
            return [item]
        return []


def _made(known: type[Exception], arguments: list[Any], message: str) -> Exception:
    for given in (arguments, [message]):
        with contextlib.suppress(Exception):  # the arguments are not this type's
            return known(*given)
    with contextlib.suppress(TypeError):
        return known.__new__(known, message)
    return RemoteError(message)


def _as_raised(kind: type[BaseException], answer: dict[str, Any]) -> BaseException:
    """The wish of the program to end, for a test that means to see it."""
    try:
        error = kind(*codec.decode(answer["args"]))
    except Exception:  # noqa: BLE001 - as for other exceptions
        error = kind()
    error.mucode_error = f"the program raised {kind.__name__}"  # type: ignore[attr-defined]
    return error


def _tell(error: Exception, answer: dict[str, Any], decode: Callable[[Any], Any]) -> None:
    """The plain attributes that the program has given its exception."""
    fields = answer.get("fields")
    for name, form in fields.items() if isinstance(fields, dict) else ():
        if name == "__notes__" or not name.startswith(("_", "mucode_")):
            with contextlib.suppress(Exception):
                setattr(error, name, decode(form))


def _texts(lines: Any) -> list[str]:
    return [str(line)[:200] for line in lines[:8]] if isinstance(lines, list) else []
