"""Files that survive a kill: atomic writes, append-only files, locks that end with their process, and their readers.

A line with a line end is complete. Text after the last line end is an incomplete row of a writer that was killed or is
still writing. Readers ignore it, and the next append removes it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from mucode_agent.types import InfrastructureError, ProblemError, Record

Row = TypeVar("Row", bound=Record)

RESTORE = "restore the file, or run again into another directory"


def remedy(error: OSError, room: str = "free room") -> str:
    """What to do about an error of the file system; `room` if it is full or gives no cause."""
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ENOENT):
        return "give another path, or move away what is there"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give a path in a directory that you may write to"
    return room


class DiskError(InfrastructureError):
    """The disk failed, so nothing can be saved and the run must end."""


# --- whole files ----------------------------------------------------------------------------------------------------


def write_whole(path: Path, text: str) -> None:
    """Writes `text` to `path`, completely or not at all. Raises InfrastructureError."""
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror}; {remedy(error)}, then run again") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path`, on disk, when the block ends without an exception. Raises OSError.

    It has the permissions of the file that it replaces, or those of a new file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Flushes a directory: a renamed file survives a crash of the machine only if its directory is on disk too."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- files that only grow -------------------------------------------------------------------------------------------


def append_lines(descriptor: int, lines: bytes, *, sync: bool = True) -> None:
    """Appends `lines` after the last complete line of an open file: all of them, or none. Raises OSError.

    With `sync` they are on disk when this returns; otherwise a crash of the machine may lose them.
    """
    end = end_of_last_line(descriptor)
    os.ftruncate(descriptor, end)
    os.lseek(descriptor, end, os.SEEK_SET)
    try:
        view = memoryview(lines)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def end_of_last_line(descriptor: int) -> int:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    step = 1  # almost always the last byte ends a line
    while end > 0:
        start = max(0, end - step)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end, step = start, 65536
    return 0


class Journal(Generic[Row]):
    """Rows in an append-only file: on disk when `append` returns, complete or not at all. Threads may share it."""

    def __init__(self, path: Path, form: TypeAdapter[Row]) -> None:
        """Reads the existing rows and removes an incomplete last one. Raises ProblemError naming a damaged line."""
        self.path, self._lock = path, threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ProblemError(f"cannot use {path}: {error.strerror}; give a writable directory") from None
        try:
            self.rows = list(read_rows(path, form))
            os.ftruncate(self._descriptor, end_of_last_line(self._descriptor))
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        """Raises DiskError, and removes what was partly written, if the disk fails."""
        with self._lock:
            try:
                append_lines(self._descriptor, as_lines(rows).encode())
            except OSError as error:
                raise DiskError(
                    f"cannot write {self.path}: {error.strerror}; everything up to here is saved: {remedy(error)}, "
                    "then run the same command"
                ) from error
            self.rows.extend(rows)

    def close(self) -> None:
        os.close(self._descriptor)


def as_lines(rows: Sequence[Record]) -> str:
    """Rows as JSON Lines."""
    return "".join(row.model_dump_json() + "\n" for row in rows)


# --- readers --------------------------------------------------------------------------------------------------------


def read_rows(
    path: Path, form: TypeAdapter[Row], *, needed_for: str = "", version: tuple[str, int] | None = None
) -> Iterator[Row]:
    """The complete rows of an append-only file; fields that another version may have added are ignored.

    Raises ProblemError naming the line that is damaged. If there is no file, the message begins with `needed_for`.
    `version` is the field with every row's version, and the version that is read.
    """
    for number, line in enumerate(read_bytes(path, needed_for).split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        if version:
            check_version(where, line, *version)
        yield parsed(form, line, where, extra="ignore")


def read_bytes(path: Path, needed_for: str = "", *, remedy: str = "give a directory that a run has written") -> bytes:
    """Raises ProblemError if the file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        sentence = f"{needed_for}: cannot read {path.name}" if needed_for else f"cannot read {path}"
        raise ProblemError(f"{sentence}: {error.strerror}; {remedy}") from None


def read_card(path: Path, form: TypeAdapter[Row], *, of: str) -> Row | None:
    """The card beside the weights of a verifier or generator, which `of` names; None if there is none.

    Raises ProblemError if it cannot be read, or is damaged or of another version.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}; give a readable {of}") from None
    return parsed(
        form,
        data,
        str(path),
        wrong=f"is no {of} card of this version",
        remedy=f"train the {of} again",
    )


def parsed(
    form: TypeAdapter[Row],
    data: bytes,
    where: str,
    *,
    wrong: str = "is damaged or of another version",
    remedy: str = RESTORE,
    extra: Literal["ignore"] | None = None,
) -> Row:
    """Raises ProblemError: `where` `wrong`: the field and the cause; `remedy`.

    `extra="ignore"` ignores fields that another version of this package may have added.
    """
    try:
        return form.validate_json(data, extra=extra)
    except ValidationError as error:
        raise ProblemError(f"{where} {wrong}: {first_cause(error)}; {remedy}") from None


def first_cause(error: ValidationError, whole: str = "the row", form: type[BaseModel] | None = None) -> str:
    """The first wrong field, why, and its value: the text for every error that pydantic finds.

    `whole` names the value if no single field is wrong. With `form`, the expected record, the text for an unknown field
    lists the known ones.
    """
    return cause_of(error.errors(include_url=False)[0], whole, form)


def cause_of(fault: Mapping[str, Any], whole: str = "the row", form: type[BaseModel] | None = None) -> str:
    """One entry of `ValidationError.errors()` in words; see `first_cause`."""
    place = [str(part) for part in fault["loc"] if part not in _UNION_TAGS]
    where = ".".join(place) or whole
    if fault["type"] == "missing":
        return f"{where} is missing"
    if fault["type"] == "extra_forbidden":
        known = _fields(form, place[:-1])
        return f"{where} is unknown" + (f"; known are {', '.join(known)}" if known else "")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{where}: {message}" if place else message
    rule = in_our_words(message.lower())
    between = " " if rule.startswith("must ") else ": "
    return f"{where}{between}{rule}, got {shortened(fault['input'])}"


def in_our_words(message: str) -> str:
    """A rule that pydantic states: `Input should be less than or equal to 5` is `must be at most 5`."""
    message = re.sub(r", (?:unable to (?:parse string|interpret)|got a) .*", "", message)
    message = re.sub(r"(^|: )\w+ should ", r"\1must ", message)
    for theirs, ours in _RULES.items():
        message = message.replace(theirs, ours)
    return message


_RULES = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "more than",
    "a valid integer": "a whole number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid tuple": "a list",
    "a valid dictionary": "an object",
    "a valid ": "a ",
}
"""Pydantic's words, and ours, in the order in which they are replaced."""
_UNION_TAGS = {"str", "int", "float", "bool"}


def _fields(form: type[BaseModel] | None, place: Sequence[str]) -> list[str]:
    """Fields of the record at this place of a form; empty if it is unknown."""
    for part in place:
        field = form.model_fields.get(part) if form else None
        kind = field.annotation if field else None
        form = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return list(form.model_fields) if form else []


def shortened(value: Any) -> str:
    """The value's `repr`, in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_version(where: Path | str, data: bytes, field: str, version: int) -> None:
    """Raises ProblemError if another version of this package wrote the JSON object."""
    try:
        found = json.loads(data)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # no version at all: its reader says what is wrong
    if found != version:
        raise ProblemError(
            f"{where} has {field} {found}, this version of mucode_agent reads {version}; "
            "use the version that wrote it, or run again into another directory"
        )


def digest(value: Any) -> str:
    """SHA-256 of the JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- locks ----------------------------------------------------------------------------------------------------------


@contextmanager
def lock_file(path: Path, *, wait: bool = False) -> Iterator[int]:
    """Holds the lock on `path`, created if needed, until the block or the process ends; yields its descriptor.

    Raises BlockingIOError if another holds it, unless `wait`, and OSError if the file cannot be locked.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def hold_directory(directory: Path) -> Iterator[None]:
    """Locks a directory for this process. Raises ProblemError if another holds it."""
    path = directory / "lock"
    with contextlib.ExitStack() as held:
        try:
            descriptor = held.enter_context(lock_file(path))
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = path.read_text(errors="replace").strip()
            raise ProblemError(
                f"{directory} is in use by another run (process {holder or 'unknown'}); "
                "wait for it, or give another directory"
            ) from None
        except OSError as error:
            raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None
        yield


@contextmanager
def claim_file(path: Path) -> Iterator[bool]:
    """Whether this caller got the lock `path`, until the end of the block, which removes the file.

    False if another holds it. Raises InfrastructureError if the directory cannot hold locks.
    """
    with contextlib.ExitStack() as held:
        mine = True
        try:
            while True:
                descriptor = held.enter_context(lock_file(path))
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), path.stat()):
                        break
                held.close()  # its holder has just finished and removed it: the locked file is no longer the lock
            held.callback(path.unlink, missing_ok=True)  # while held, so a waiting process checks again
        except BlockingIOError:
            mine = False
        except OSError as error:
            raise InfrastructureError(
                f"cannot lock {path}: {error.strerror}; {remedy(error)}, or take a file system that has flock"
            ) from error
        yield mine


# --- directories of one run -----------------------------------------------------------------------------------------


def check_same(
    held: dict[str, Any], asked: dict[str, Any], directory: Path, kind: str = "results of another run"
) -> None:
    """Raises ProblemError, saying what differs, if `directory` would mix the results of two identities."""
    differing = list(_differing(held, asked))
    if differing:
        raise ProblemError(
            f"{directory} holds {kind}: {'; '.join(differing[:6])}; give another directory, or the old settings"
        )


def _differing(held: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key in [*asked, *(key for key in held if key not in asked)]:
        old, new = held.get(key), asked.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def check_unused(directory: Path) -> None:
    """Raises ProblemError if a new run would start in a directory with other files."""
    others = sorted(path.name for path in directory.iterdir() if path.name != "lock" and not path.name.startswith("."))
    strange = [name for name in others if name != "problems.jsonl"]  # written first, so a killed start may leave it
    if strange:
        raise ProblemError(f"{directory} is no run directory and holds {strange[0]}; give a new or an empty directory")
