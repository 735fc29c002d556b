"""Files that outlive a crash: journals that only grow, files written whole, locks, and rows read with their place.

What `append` or `write_whole` was given is on disk when it returns, all of it or nothing. A writer that was killed may
leave half a last line behind: readers pass over it, and the next writer cuts it off.
"""

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from mucode_agent.types import InfrastructureError, ProblemError, Record

Row = TypeVar("Row", bound=Record)
_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of a disk, where another path would not help."""


class DiskError(InfrastructureError):
    """What is drawn now could not be kept: no run goes on."""


# --- files that only grow ------------------------------------------------------------------------------------------


class Journal(Generic[Row]):
    """Rows in a file that only grows."""

    def __init__(self, path: Path, form: TypeAdapter[Row]) -> None:
        """Reads what is there and cuts off half a last line. Raises ProblemError naming a line of another form."""
        self.path, self._lock = path, threading.Lock()
        try:
            with path.open("a+b") as file:
                self.rows = list(read_rows(path, form))
                file.truncate(end_of_lines(file.fileno()))
        except OSError as error:
            raise ProblemError(f"cannot use {path}: {error.strerror}; give a writable directory") from None

    def append(self, rows: Sequence[Row]) -> None:
        """Raises DiskError where the disk refuses. Threads may share it."""
        data = b"".join(row.model_dump_json().encode() + b"\n" for row in rows)
        with self._lock:
            try:
                append_lines(self.path, data)
            except OSError as error:
                raise DiskError(
                    f"cannot write {self.path}: {error.strerror}; everything up to here is saved: free room, then run "
                    "the same command"
                ) from error
            self.rows.extend(rows)


def append_lines(path: Path, lines: bytes, opening: bytes = b"") -> None:
    """One append of whole lines; processes and threads may share the file.

    Raises OSError, and takes back what was half written. `opening` is how every line of the file begins: half a last
    line that begins otherwise is not cut off, since it is somebody else's.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        hold(descriptor)
        end = end_of_lines(descriptor)
        if not opening.startswith(os.pread(descriptor, len(opening), end)):
            raise OSError(errno.EINVAL, "its last line is of another kind")
        os.ftruncate(descriptor, end)
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def end_of_lines(descriptor: int) -> int:
    """Where the whole lines of an open file end, in bytes."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        chunk = os.pread(descriptor, end - start, start)
        if (newline := chunk.rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0


# --- files written whole -------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """`path` holds all of `text`, or what it held before. Raises as `replacing`."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well.

    Raises InfrastructureError where the disk is full or broken, ProblemError where `path` cannot be written at all.
    """
    if path.exists() and not path.is_file():
        raise ProblemError(f"cannot write {path}: it is no plain file; give another path")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Opened by hand, since the rights must be those that a new `path` would have.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in _FAULTS:
            raise InfrastructureError(f"cannot write {path}: {error.strerror}; free room, then run again") from error
        raise ProblemError(f"cannot write {path}: {error.strerror}; give a path in a writable directory") from error


def _sync(directory: Path) -> None:
    """A renamed file is still there after a crash of the machine only where its directory is on disk too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- locks ---------------------------------------------------------------------------------------------------------


def hold(descriptor: int, *, wait: bool = True) -> bool:
    """Locks an open file until it is closed, or its process dies; False where another has it and `wait` is not set.

    Raises OSError where the file system has no `flock`.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time in the block; others wait. The file is made where it is missing. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        hold(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Holds a directory by its file `lock`. Raises ProblemError, with the holder's number, where another does."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None
    try:
        if not hold(descriptor, wait=False):
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise ProblemError(
                f"{directory} is in use by another run (process {holder or 'unknown'}); "
                "wait for it, or give another directory"
            )
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


# --- rows ----------------------------------------------------------------------------------------------------------


def read_rows(path: Path, form: TypeAdapter[Row]) -> Iterator[Row]:
    """The whole lines of a file as rows; fields of another version are passed over. Raises ProblemError."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ProblemError(
            f"{path.parent} is no whole run: cannot read {path.name}: {error.strerror}; give a directory that a run "
            "has written"
        ) from None
    with file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield parsed(form, line, f"{path}, line {number}", extra="ignore")


def parsed(form: TypeAdapter[Row], data: bytes, where: str, *, extra: Literal["ignore"] | None = None) -> Row:
    """Raises ProblemError naming the place and the cause.

    `extra="ignore"` passes over fields that another version of this package may have, as in rows of a run.
    """
    try:
        return form.validate_json(data, extra=extra)
    except ValidationError as error:
        raise ProblemError(
            f"{where} is damaged or of another version: {mistake(error, 'the row')}; "
            "restore the file, or run again into another directory"
        ) from None


def read_card_file(path: Path, form: type[Row], what: str, remedy: str) -> Row | None:
    """The card in a file; None where there is none. Raises ProblemError where it is no `what` of this version."""
    try:
        return form.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}; make it readable") from None
    except ValidationError as error:
        raise ProblemError(f"{path} is no {what}: {mistake(error, 'the file')}; {remedy}") from None


def mistake(error: ValidationError, whole: str = "the object") -> str:
    """The first thing that is wrong, as `field.part: what`; `whole` names what has no field."""
    cause: Any = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in cause["loc"]) or whole
    return f"{field}: {cause['msg'].lower()}"
