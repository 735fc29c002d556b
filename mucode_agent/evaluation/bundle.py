"""A run's directory as one file that somebody else opens, without this machine's paths and without keys.

    bundle.json       the version, and size and SHA-256 of each of the others, which are as in `evaluation.store`
    config.json, problems.jsonl, trace.jsonl, judgements.jsonl, results.json

The draws that resume a run (samples.jsonl) and the page stay behind: the page is made again where a bundle is opened.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from mucode_agent import __version__
from mucode_agent.evaluation.store import read_config
from mucode_agent.files import check_version, parsed, replacing
from mucode_agent.types import ProblemError, Record

BUNDLE_VERSION: Literal[1] = 1
SUFFIX = ".tar.gz"
_INDEX = "bundle.json"
_NEEDED = ("config.json", "problems.jsonl", "trace.jsonl", "judgements.jsonl")
_FILES = (*_NEEDED, "results.json")
_MOST = 4 << 30
"""Bytes of one file that is unpacked."""


class Held(Record):
    """One file of a bundle."""

    bytes: int
    sha256: str


class Bundle(Record):
    """What a bundle says of itself."""

    bundle_version: Literal[1] = BUNDLE_VERSION
    mucode_agent: str
    files: dict[str, Held]


def write_bundle(directory: Path, output: Path) -> Bundle:
    """The run in `directory` as one file; the same run gives the same bytes. Raises ProblemError."""
    read_config(directory)
    if missing := [name for name in _NEEDED if not (directory / name).is_file()]:
        raise ProblemError(f"{directory} has no {missing[0]}: the run has not begun; run `evaluate run` first")
    secrets = _secrets()
    with tempfile.TemporaryDirectory() as scratch:
        held = {}
        for name in filter(lambda name: (directory / name).is_file(), _FILES):
            _copy(directory / name, Path(scratch, name), secrets)
            held[name] = _held(Path(scratch, name))
        bundle = Bundle(mucode_agent=__version__, files=held)
        try:
            with (
                replacing(output) as file,
                gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                index = (bundle.model_dump_json(indent=2) + "\n").encode()
                archive.addfile(_member(_INDEX, len(index)), io.BytesIO(index))
                for name, facts in held.items():
                    with Path(scratch, name).open("rb") as source:
                        archive.addfile(_member(name, facts.bytes), source)
        except OSError as error:
            raise ProblemError(f"cannot write {output}: {error.strerror}; give another path") from None
    return bundle


def open_bundle(file: Path) -> Path:
    """The directory beside a bundle that holds what it holds, unpacked and checked by hash.

    One that is there is checked and taken. Raises ProblemError where the bundle is none, or is damaged.
    """
    directory = file.with_name(file.name.removesuffix(SUFFIX))
    try:
        with tarfile.open(file, "r:gz") as archive:
            bundle = _index(archive, file)
            if directory.exists():
                held = {name: _held(directory / name) for name in bundle.files if (directory / name).is_file()}
                changed = [name for name, facts in bundle.files.items() if held.get(name) != facts]
                if [name for name in changed if name != "results.json"]:  # which is made again with the page
                    raise ProblemError(f"{directory} holds another run than {file}; move one of them")
                return directory
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{directory.name}.") as scratch:
                inner = Path(scratch, "run")
                inner.mkdir()
                for member in archive:
                    if member.name in bundle.files:
                        _unpack(archive, member, inner, bundle.files[member.name], file)
                if lost := [name for name in bundle.files if not (inner / name).is_file()]:
                    raise ProblemError(f"{file} lacks {lost[0]}, which it says it holds; ask for it again")
                inner.rename(directory)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ProblemError(f"{file} is no bundle ({error}); give the file that `evaluate bundle` wrote") from None
    except OSError as error:
        raise ProblemError(f"cannot open {file}: {error.strerror or error}") from None
    return directory


def _index(archive: tarfile.TarFile, file: Path) -> Bundle:
    first = archive.next()
    if first is None or first.name != _INDEX or not first.isfile() or first.size > 1 << 20:
        raise ProblemError(f"{file} is no bundle: it does not begin with {_INDEX}; give one of `evaluate bundle`")
    told = archive.extractfile(first)
    data = told.read() if told else b""
    where = f"{file}, {_INDEX}"
    check_version(where, data, "bundle_version", BUNDLE_VERSION)
    bundle = parsed(TypeAdapter(Bundle), data, where)
    if odd := [name for name in bundle.files if name not in _FILES]:
        raise ProblemError(f"{file} holds {odd[0]!r}, which no run has; it is not opened")
    return bundle


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, facts: Held, file: Path) -> None:
    source = archive.extractfile(member) if member.isfile() and member.size <= _MOST else None
    if source is None:
        raise ProblemError(f"{file} holds {member.name} as no plain file of at most 4 GiB; it is not opened")
    target = directory / member.name
    with source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    if _held(target) != facts:
        raise ProblemError(f"{member.name} in {file} does not have the hash that it was packed with; ask for it again")


def _held(path: Path) -> Held:
    with path.open("rb") as file:
        return Held(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


# --- what stays on this machine ------------------------------------------------------------------------------------

_KEYS = re.compile(r"\b(?:sk|pk|rk|hf|gsk|xai|ghp|gho|ghs|lsv2_pt|lsv2_sk|AIza|AKIA)[-_]?[A-Za-z0-9_-]{20,}")
_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_GIVEN = re.compile(r"(?i)((?:api[-_]?key|token|secret|password)(?:[=:]|\s+)['\"]?)[^\s'\"&]+")
_PATH = re.compile(r"(?<![\w/.~-])(?:~/(?:[^\s/'\"=]+/)*|/(?!/)(?:[^\s/'\"=]+/)+)[^\s/'\"=]*")
_NAMES = re.compile(r"(?i)key|token|secret|password|credential")


def _secrets() -> re.Pattern[str]:
    """Values of this process's environment that are secret by name, and its user's home directory."""
    values = {value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= 8}
    home = re.escape(str(Path.home()))
    return re.compile("|".join([*map(re.escape, sorted(values, key=len, reverse=True)), rf"{home}(?=/[^/\s]|$)"]))


def _copy(source: Path, target: Path, secrets: re.Pattern[str]) -> None:
    """Rows as they are, without secrets; what says how the run was made, also without paths."""
    whole = source.suffix == ".json"

    def anywhere(text: str) -> str:
        return _KEYS.sub("***", secrets.sub(lambda m: "~" if m[0].startswith("/") else "***", text))

    def setting(text: str) -> str:
        text = _GIVEN.sub(r"\1***", _IN_URL.sub("***@", anywhere(text)))
        return _PATH.sub(lambda m: Path(m[0]).name, text)

    with source.open("rb") as rows, target.open("w", encoding="utf-8") as out:
        for line in [rows.read()] if whole else rows:
            if not line.endswith(b"\n") and not whole:
                continue  # half a row of a run that goes on
            try:
                row = json.loads(line)
            except ValueError:
                raise ProblemError(f"{source} is damaged; give a whole run") from None
            if whole:
                out.write(json.dumps(_walk(row, setting), indent=2) + "\n")
                continue
            row = {key: _walk(held, setting if key == "settings" else anywhere) for key, held in row.items()}
            out.write(json.dumps(row, separators=(",", ":")) + "\n")


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_walk(part, change) for part in value]
    if isinstance(value, dict):
        return {key: _walk(part, change) for key, part in value.items()}
    return value
