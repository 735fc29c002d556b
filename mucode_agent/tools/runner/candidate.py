"""The candidate's process: loads the program and answers calls with plain data. Nothing here is trusted.

It knows the program and the arguments of the calls; never the tests, the expected values or another program.
"""

import _sitebuiltins
import abc
import atexit
import builtins
import contextlib
import copy
import enum
import errno
import functools
import gc
import io
import linecache
import mmap
import operator
import os
import resource
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from . import codec, enums, together
from .meeting import marked
from .mirror import Mirror

FILENAME = "solution.py"
_CHANNEL = 3
_FRAMES = 5
_WARM = 20
_CAUSES, _PARTS = 4, 20
"""Of an exception: causes of causes, and exceptions in a group."""

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "len": len,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "iter": iter,
    "str": str,
    "get": getattr,
    "set": setattr,
    "isinstance": isinstance,
    "subclass": lambda kind, other: issubclass(other, kind),
    "repr": repr,
    "format": format,
    "delete": delattr,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "equality": lambda value: _equality(value),
    "truth": operator.truth,
    "attribute": lambda _, member, name: getattr(member, name),
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    **{name: getattr(operator, f"__{name}__") for name in codec.OPERATORS},
}


def main(program: "Program") -> None:
    """Serve on descriptor 3 until the judge goes away; the process then ends."""
    with contextlib.suppress(EOFError, OSError):
        program.serve()
    os._exit(0)


class Program:
    """The loaded program, the objects it has handed out, and the conversation with the judge.

    It starts in the directory `home`. Made and warmed up before the fork, since each new object costs a child pages.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._space: dict[str, Any] = {}
        self._source = ""
        self._handles: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._mirror = Mirror(1, self._opaque, self._special)
        self._records = self._mirror.records
        self._callbacks: dict[int, Any] = {}
        self._lent: dict[int, tuple[Any, list[Any]]] = {}
        """Stand-ins for functions and iterators of the test, and their forms, by identity."""
        self._variables: dict[str, Any] = {}
        """What the test knows of the module's variables."""
        self._calling = threading.RLock()
        self._sending = threading.Lock()
        self._used = set[str]()
        self._depth = 0
        self._limit = 1 << 18

    def warm_up(self) -> None:
        """Make a call often enough for the interpreter to adapt this code, which a fork would do again in new pages."""
        self._space["f"] = lambda values, **_: (len(values), [1.5, "x", {1: (2,)}])
        for number in range(_WARM):
            message = {"op": "call", "target": "f", "args": [["v", [1, number]]], "kw": {"key": ["t", [2.5, None]]}}
            answer = self._answer("call", codec.unpack(codec.pack(message)[codec.HEADER.size :]))
            codec.pack(answer)
        self._space.clear()

    def serve(self) -> Any:
        """Answer messages until one returns from a callback, whose value is the result."""
        while True:
            message = self._receive()
            operation = message["op"]
            if message.get("sync"):
                self._mirror.apply(message["sync"])
            if operation == "return":
                return self._decode(message["value"])
            if operation == "raise":
                raise (codec.builtin_error(message["kind"]) or RuntimeError)(message["value"])
            self._depth += 1
            try:
                answer = self._answer(operation, message)
            except codec.NotPlain:
                answer = {"deep": True}
            except BaseException as error:  # noqa: BLE001 - whatever the program raises is its answer
                answer = self._failure(error)
                with contextlib.suppress(codec.NotPlain):
                    answer |= self._beside([], shares=False)[1]
            self._depth -= 1
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:  # noqa: BLE001, S110 - the program's own streams
                pass
            self._send(answer)

    def _answer(self, operation: str, message: dict[str, Any]) -> dict[str, Any]:
        if operation == "load":
            return self._load(message)
        if operation == "test":
            return {"ok": together.run_test(message["source"], self._space, message["entry_point"], self._said)}
        return self._operate(operation, message)

    def _said(self, error: BaseException) -> tuple[str, list[str]]:
        name, message, frames = describe(error, self._source)
        return f"{name}: {message}" if message else name, frames

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        limit_resources(message["limits"]["rlimits"])
        os.chdir(self._home)
        self._limit = message["limits"]["output"]
        code = message["code"]
        try:
            compiled = compile(code, FILENAME, "exec", dont_inherit=True)
            added: dict[str, Any] = {}
            if "marks" in message:
                with contextlib.suppress(RecursionError, MemoryError):
                    compiled, added = marked(code, FILENAME, message["marks"], self._mark)
        except (SyntaxError, ValueError) as error:  # ValueError: null bytes, lone surrogates
            return {"syntax": _syntax(error, code)}
        module = types.ModuleType("__main__" if message["main"] else "solution")
        sys.modules[module.__name__] = module
        self._space = module.__dict__
        self._space.update(added)
        self._source = code
        linecache.cache[FILENAME] = (lambda: code,)
        if message["main"] or message["together"]:
            sys.modules["__main__"] = module
        if message["main"]:
            self._space["__file__"] = FILENAME
            sys.argv[:] = [FILENAME]
            _devices()
        gc.enable()
        try:
            self._set_up(message["setup"])
        except Exception as error:  # noqa: BLE001 - trusted code, so the caller's mistake and not the program's
            return {"setup": f"{type(error).__name__}: {error}"[:500]}
        if message["setup"]:
            self._send({"ready": True})  # from here on, the program could say that the set-up has failed
        if message["main"]:
            _run_to_the_end(compiled, self._space)
        exec(compiled, self._space)  # noqa: S102 - what this process is for
        sets = [name for name, kind in self._records.items() if issubclass(kind, enum.Enum)]
        again = next((name for name in sets if self._space.get(name) is not self._records[name]), None)
        told = {} if message["together"] else enums.described(self._space, self._records, self._limit)
        self._records |= {name: self._space[name] for name in told}
        kinds = {name: _kind(self._space[name]) for name in message["names"] if name in self._space}
        given = {name: self._space[name] for name, kind in kinds.items() if kind in ("function", "class")}
        own = {id(self._space[name]) for name in told}
        forms = {
            name: enums.form_of(value, value) if id(value) in own else self._handle(value)
            for name, value in given.items()
        }
        return {"ok": None, "enums": told, "names": kinds, "objects": forms, "again": again}

    def _mark(self, name: str) -> None:
        """Tell once that the program uses this name."""
        if name not in self._used:
            self._used.add(name)
            self._send({"uses": name[:80]})

    def _set_up(self, setup: str) -> None:
        if not setup.strip():
            return
        with contextlib.suppress(
            NameError
        ):  # set-up that uses the program's own names: the judge runs it, with proxies for them
            exec(compile(setup, "<setup>", "exec", dont_inherit=True), self._space)  # noqa: S102
        for name, value in self._space.items():
            if isinstance(value, type) and value.__module__ == self._space["__name__"]:
                self._records[name] = value

    def _operate(self, operation: str, message: dict[str, Any]) -> dict[str, Any]:
        target = message["target"]
        value = self._space[target] if isinstance(target, str) else self._handles[target]
        shares = "sync" in message
        if operation == "next":
            items, returned = _one(value)
            forms, answer = self._beside(items or [returned], shares=shares)
            return {**answer, "ok": None, "items": forms} if items else {**answer, "ok": forms[0], "items": []}
        if operation == "name":
            self._variables[message["target"]] = value
            (form,), answer = self._beside([value], shares=True)
            return {**answer, "ok": form}
        arguments = [self._decode(item) for item in message["args"]]
        keywords = {name: self._decode(item) for name, item in message["kw"].items()} if "kw" in message else {}
        result = _OPERATIONS[operation](value, *arguments, **keywords)
        del arguments, keywords
        (form,), answer = self._beside([result], shares=shares)
        return {**answer, "ok": form}

    def _beside(self, values: list[Any], *, shares: bool) -> tuple[list[Any], dict[str, Any]]:
        """The forms of values, and what goes beside them: what is shared with the test and has changed, and the
        module's variables that have another value now.
        """
        space = self._space
        anew = {name: space.get(name) for name, was in self._variables.items() if space.get(name) is not was}
        if shares and not anew and self._mirror.unneeded(values):
            return [self._encode(value) for value in values], {"sync": None}
        if not (shares or anew or self._mirror):
            try:
                return [self._encode(value) for value in values], {}
            except codec.NotPlain:  # the mirror knows what contains itself
                pass
        forms, section = self._mirror.forms([*values, *anew.values()])
        self._variables.update(anew)
        names = dict(zip(anew, forms[len(values) :], strict=True))
        return forms[: len(values)], {"sync": section, "names": names}

    # --- values

    def _encode(self, value: Any) -> Any:
        return codec.encode(value, self._opaque)

    def _opaque(self, value: Any, depth: int, seen: tuple[int, ...]) -> Any:
        name = type(value).__name__
        known = self._records.get(name) is type(value)
        if issubclass(type(value), enum.Enum):
            if known and (form := enums.form_of(type(value), value)):
                return form
            known = False
        if issubclass(type(value), enum.EnumMeta) and self._records.get(value.__name__) is value:
            return enums.form_of(value, value)
        if issubclass(type(value), codec.BASES):
            form = codec.encode(codec.plain(value), self._opaque, depth + 1, seen)
            return ["u", [name[:80], codec.own_names(value), form]]
        if known and hasattr(value, "__dict__"):
            fields = {key: codec.encode(item, self._opaque, depth + 1, seen) for key, item in vars(value).items()}
            return ["o", [name, fields]]
        return self._lent[id(value)][1] if id(value) in self._lent else self._handle(value)

    def _handle(self, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._handles)
            self._handles.append(value)
        return ["H", [number, _kind(value), f"{type(value).__name__}"[:80], _by_identity(value)]]

    def _decode(self, form: Any) -> Any:
        return codec.decode(form, self._mirror.special)

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "fields":
            return body[1]
        if tag == "H":
            return self._space[body] if isinstance(body, str) else self._handles[body]
        if tag == "o":
            return codec.rebuild(self._records[body[0]], body[1], self._decode)
        if tag == "e":
            return enums.of_form(self._records[body[0]], body[1])
        if tag == "i":
            return self._items(body)
        return self._callback(*body)

    def _callback(self, number: int, name: str) -> Any:
        """The stand-in for a function of the test: the same one each time."""
        if number not in self._callbacks:

            def call(*arguments: Any, **keywords: Any) -> Any:
                return self._call_back(number, arguments, keywords)

            call.__name__ = call.__qualname__ = name
            self._callbacks[number] = call
            self._lent[id(call)] = (call, ["C", number])
        return self._callbacks[number]

    def _items(self, number: int) -> Any:
        """An iterator of the test, one item at a time."""
        if number not in self._callbacks:

            def items() -> Any:
                while found := self._call_back(number, (), {}):
                    yield found[0]

            made = self._callbacks[number] = items()
            self._lent[id(made)] = (made, ["i", number])
        return self._callbacks[number]

    def _call_back(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """One thread of the program at a time, and only while the test waits for the program."""
        with self._calling:
            if not self._depth:
                raise RuntimeError("the call that was given this function has returned")
            forms, section = self._mirror.forms([*arguments, *keywords.values()])
            named = dict(zip(keywords, forms[len(arguments) :], strict=True))
            self._send({"callback": number, "args": forms[: len(arguments)], "kw": named, "sync": section})
            return self.serve()

    def _failure(self, error: BaseException, depth: int = 0) -> dict[str, Any]:
        name, message, frames = describe(error, self._source)
        kinds = type(error).__mro__
        answer: dict[str, Any] = {"exc": name, "message": message, "frames": frames}
        answer["kinds"] = [kind.__name__ for kind in kinds][:12]
        with contextlib.suppress(BaseException):
            answer["args"] = codec.encode(list(error.args), self._opaque)
        answer["homes"] = [str(kind.__module__) for kind in kinds][:12]
        answer["fields"] = {}
        for field, value in list(getattr(error, "__dict__", {}).items())[:16]:
            with contextlib.suppress(BaseException):
                answer["fields"][str(field)] = codec.encode(value, self._opaque)
        if depth < _CAUSES:
            causes = {"cause": error.__cause__, "context": error.__context__}
            answer |= {name: self._failure(other, depth + 1) for name, other in causes.items() if other is not None}
            answer["suppress"] = bool(error.__suppress_context__)
            if isinstance(error, BaseExceptionGroup):
                answer["parts"] = [self._failure(part, depth + 1) for part in error.exceptions[:_PARTS]]
        return answer

    # --- frames

    def _send(self, message: dict[str, Any]) -> None:
        try:
            frame = codec.pack(message)
        except (ValueError, RecursionError, MemoryError, TypeError) as error:
            frame = codec.pack({"exc": type(error).__name__, "message": str(error)[:200], "frames": [], "kinds": []})
        if len(frame) > self._limit * (codec.SHARED if "sync" in message else 1) + codec.SLACK:
            frame = codec.pack({"big": len(frame)})
        rest = memoryview(frame)
        with self._sending:
            while rest:
                rest = rest[os.write(_CHANNEL, rest[: codec.PART]) :]

    def _receive(self) -> Any:
        data: bytes | bytearray = b""
        while len(data) < codec.HEADER.size or len(data) < codec.HEADER.size + codec.HEADER.unpack_from(data)[0]:
            part = os.read(_CHANNEL, codec.PART)
            if not part:
                raise EOFError
            data = codec.joined(data, part)
        return codec.unpack(memoryview(data)[codec.HEADER.size :])


def _run_to_the_end(code: types.CodeType, space: dict[str, Any]) -> None:
    """Run a program as `python solution.py` does, threads and exit handlers included, and leave with its exit code."""
    status: Any = None
    try:
        exec(code, space)  # noqa: S102 - what this process is for
    except SystemExit as exit_:
        status = exit_.code
    streams = (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__)
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - the interpreter's own way to join threads
    atexit._run_exitfuncs()  # noqa: SLF001 - as above
    if isinstance(status, str):
        sys.stderr.write(status)
    _flush(sys.stdout, sys.stderr, *streams)  # while the program's own streams still have the names that they use
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    held = list(space.values())
    space.clear()
    held.clear()  # the program's finalizers run, and close what it left open
    gc.collect()
    _flush(sys.stdout, sys.stderr)
    os._exit(0 if status is None else status & 0xFF if isinstance(status, int) else 1)


def _flush(*streams: Any) -> None:
    for stream in streams:
        with contextlib.suppress(ValueError, AttributeError):  # closed by the program, or not a stream any more
            stream.flush()


_STACK = 64 << 20
"""Programs that recurse deeply ask for stacks of hundreds of MB and touch little; here address space counts."""


def bounded_stacks() -> None:
    """`threading.stack_size` gives what the limit of memory allows."""
    plain = threading.stack_size

    def stack_size(size: int = 0, /) -> int:
        return plain(min(size, _STACK)) if size > _STACK else plain(size)

    threading.stack_size = stack_size


def private_memory() -> None:
    """`mmap.mmap(-1, size)` gives memory that is shared with nobody, as there is nobody: shared memory is refused."""
    plain = mmap.mmap

    class Private(plain):  # type: ignore[misc,valid-type]
        def __new__(cls, fileno: int, length: int, *arguments: Any, **keywords: Any) -> Any:
            if fileno == -1 and not arguments and keywords.keys().isdisjoint(("flags", "access")):
                keywords["flags"] = mmap.MAP_PRIVATE
            return super().__new__(cls, fileno, length, *arguments, **keywords)

    Private.__name__ = Private.__qualname__ = plain.__name__
    Private.__module__ = plain.__module__
    mmap.mmap = Private  # type: ignore[misc]


def limit_resources(limits: list[tuple[str, int]]) -> None:
    """Lower this process's limits for good. What the host refuses is left: the judge's clock still decides."""
    for name, value in limits:
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # the hard limit is lower
            with contextlib.suppress(ValueError, OSError):
                hard = resource.getrlimit(kind)[1]
                resource.setrlimit(kind, (hard, hard))


def standard_streams() -> None:
    """Text streams over descriptors 0 to 2, with the encoding pinned."""
    raw = [io.FileIO(number, mode, closefd=False) for number, mode in enumerate("rww")]
    for file, name in zip(raw, ("<stdin>", "<stdout>", "<stderr>"), strict=True):
        file.name = name
    sys.stdin = io.TextIOWrapper(io.BufferedReader(raw[0]), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw[1]), encoding="utf-8", errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(raw[2]),
        encoding="utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w")):
        setattr(stream, "mode", mode)  # noqa: B010 - as the interpreter does; programs look at it


def _devices() -> None:
    """`open("/dev/stdin")` and its like, of which the new root has none."""
    plain, numbers = open, {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}

    @functools.wraps(plain)
    def opened(file: Any, *arguments: Any, **keywords: Any) -> Any:
        number = numbers.get(file) if isinstance(file, str) else None
        return plain(file if number is None else os.dup(number), *arguments, **keywords)

    builtins.open = opened


class _WakeEnd:
    """One end of what wakes asyncio's loop, where pairs of sockets are refused; it carries null bytes only."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def recv(self, size: int) -> bytes:
        return bytes(min(os.eventfd_read(self._descriptor), size))

    def send(self, data: bytes) -> int:
        if data.strip(b"\0"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        os.eventfd_write(self._descriptor, len(data))
        return len(data)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    __del__ = close


def wake_pair(*kind: Any, **named: Any) -> tuple[_WakeEnd, _WakeEnd]:
    """`socket.socketpair()` for asyncio."""
    if kind or named:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    return _WakeEnd(descriptor), _WakeEnd(os.dup(descriptor))


def standard_names() -> None:
    """What `site` adds to the built-in names, and programs use."""
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()  # noqa: SLF001 - as `site` does


def describe(error: BaseException | None, code: str) -> tuple[str, str, list[str]]:
    """Type, message and the program's own frames, outermost first, all bounded."""
    try:
        message = str(error)[:500]
    except BaseException:  # noqa: BLE001 - the program may have written __str__
        message = ""
    frames: list[str] = []
    trace = error.__traceback__ if error is not None else None
    source = code.splitlines()
    while trace is not None:
        function = trace.tb_frame.f_code
        if function.co_filename == FILENAME:
            number = trace.tb_lineno or 0
            text = source[number - 1].strip() if 0 < number <= len(source) else ""
            frames.append(f"line {number}, in {function.co_name}: {text}"[:200])
            if len(frames) > 2 * _FRAMES:
                del frames[2:-_FRAMES]
        trace = trace.tb_next
    return type(error).__name__[:80], message, frames if len(frames) <= _FRAMES else [*frames[:2], *frames[-3:]]


def _one(iterator: Any) -> tuple[list[Any], Any]:
    """The next item, if there is one, and else what a generator returned."""
    try:
        return [next(iterator)], None
    except StopIteration as end:
        return [], end.value


def _kind(value: Any) -> str:
    if isinstance(value, type):
        if not issubclass(value, Exception):
            return "class"
        own = [kind.__name__ for kind in value.__mro__ if kind.__module__ == value.__module__ != "builtins"]
        known = next(kind.__name__ for kind in value.__mro__ if kind.__module__ == "builtins")
        return "exception:" + ",".join([*own, known])
    if isinstance(value, types.ModuleType):
        return "module"
    if callable(value):
        return "function"
    return "iterator" if hasattr(type(value), "__next__") else "object"


def _equality(value: Any) -> str:
    """Whether the class of an object says what equals it; `any`: it would equal whatever it is compared with."""
    if value == object():
        return "any"
    return "none" if _compares_by_identity(value) else "own"


def _compares_by_identity(value: Any) -> bool:
    """Its class leaves to Python what equals the object."""
    kind: Any = type(value)
    with contextlib.suppress(Exception):  # of a metaclass
        usual = type(kind) in (type, abc.ABCMeta, enum.EnumMeta)
        return usual and kind.__eq__ is object.__eq__ and kind.__ne__ is object.__ne__
    return False


def _by_identity(value: Any) -> bool:
    """As well as its hash."""
    kind: Any = type(value)
    return _compares_by_identity(value) and kind.__hash__ in (object.__hash__, enum.Enum.__hash__)


def _syntax(error: SyntaxError | ValueError, code: str) -> dict[str, Any]:
    if not isinstance(error, SyntaxError):
        return {"error": f"SyntaxError: {error}"[:500], "frames": []}
    lines = code.splitlines()
    number = error.lineno or 0
    text = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return {"error": f"{type(error).__name__}: {error.msg}"[:500], "frames": [f"line {number}: {text}"[:200]]}
