"""Checks that a directory of weights is unchanged, by sizes, times and digests in a file next to it.

Sizes and times are compared at every use; the digest only if a file's time changed, as after a copy. Reading a gigabyte
at every start would take longer than a small model's answer.
"""

import contextlib
import json
import os
import struct
from pathlib import Path

from pydantic import TypeAdapter

from mucode_agent.files import file_sha256, write_whole
from mucode_agent.types import InfrastructureError, Record


class _File(Record):
    size: int
    time_ns: int
    sha256: str


_Files = dict[str, _File]
_CHECKSUMS = TypeAdapter(_Files)


def record_checksums(directory: Path) -> None:
    """Records the directory's files in a file next to it. Raises OSError, InfrastructureError."""
    _write(directory, {path.name: _seen(path, file_sha256(path)) for path in sorted(directory.iterdir())})


def damage(directory: Path) -> str | None:
    """What is wrong with the files of a checkpoint's directory; None if they are unchanged."""
    try:
        held = _CHECKSUMS.validate_json(_checksums_file(directory).read_bytes())
    except (OSError, ValueError):
        return _damage_without_checksums(directory)
    now: _Files = {}
    for name, file in held.items():
        path = directory / name
        try:
            found = path.stat()
            if found.st_size != file.size:
                return f"{name} has {found.st_size} bytes and had {file.size}"
            if found.st_mtime_ns != file.time_ns and file_sha256(path) != file.sha256:
                return f"{name} holds other bytes than were written"
            now[name] = _seen(path, file.sha256)
        except OSError as error:
            return f"{name}: {error.strerror}"
    if now != held:
        _write_if_possible(directory, now)
    return None


def _damage_without_checksums(directory: Path) -> str | None:
    """Checks the files of a checkpoint without records: one that was copied, or interrupted while it was written."""
    for name in ("config.json", "tokenizer.json"):
        try:
            json.loads((directory / name).read_bytes())
        except OSError as error:
            return f"{name}: {error.strerror}"
        except ValueError:
            return f"{name} is no JSON"
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        return "there are no weights"
    for path in weights:
        try:
            size, whole = path.stat().st_size, _promised_size(path)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            return f"{path.name} is no safetensors file"
        if size != whole:
            return f"{path.name} has {size} bytes of {whole}"
    if os.access(directory.parent, os.W_OK):
        _write_if_possible(directory, {p.name: _seen(p, file_sha256(p)) for p in sorted(directory.iterdir())})
    return None


def _promised_size(path: Path) -> int:
    """Checks a safetensors file by its header: https://github.com/huggingface/safetensors#format."""
    with path.open("rb") as file:
        [length] = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, path.stat().st_size)))
    ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends)


def _seen(path: Path, sha256: str) -> _File:
    found = path.stat()
    return _File(size=found.st_size, time_ns=found.st_mtime_ns, sha256=sha256)


def _write_if_possible(directory: Path, files: _Files) -> None:
    with contextlib.suppress(InfrastructureError, OSError):  # a cache that cannot be written is read as it is
        _write(directory, files)


def _write(directory: Path, files: _Files) -> None:
    write_whole(_checksums_file(directory), _CHECKSUMS.dump_json(files, indent=1).decode() + "\n")


def _checksums_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.json")
