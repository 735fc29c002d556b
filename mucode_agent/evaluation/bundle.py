"""A run's directory as one file to share, without this machine's paths and without API keys.

    bundle.json       the version, and size and SHA-256 of each of the others, which are as in `runs.directory`
    config.json, problems.jsonl, shards/ab/<key>.json, results.json

It leaves out the completions of unfinished problems, and the report page, which is made again when a bundle is opened.
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
from mucode_agent.files import check_version, parsed, replacing
from mucode_agent.runs.config import Config
from mucode_agent.runs.directory import RunDirectory, read_problems
from mucode_agent.runs.reading import read_run
from mucode_agent.types import Problem, ProblemError, Record

BUNDLE_VERSION: Literal[2] = 2
SUFFIX = ".tar.gz"
_INDEX = "bundle.json"
_FILE = re.compile(r"config\.json|problems\.jsonl|results\.json|shards/[0-9a-f]{2}/[0-9a-f]{64}\.json")
_MOST = 4 << 30
"""Maximum bytes of one unpacked file."""


class Held(Record):
    """One file of a bundle."""

    bytes: int
    sha256: str


class Bundle(Record):
    """A bundle's index."""

    bundle_version: Literal[2] = BUNDLE_VERSION
    mucode_agent: str
    files: dict[str, Held]


def write_bundle(directory: Path, output: Path) -> Bundle:
    """The run in `directory` as one file; the same run gives the same bytes. Raises ProblemError."""
    with tempfile.TemporaryDirectory() as scratch:
        _copy(directory, Path(scratch), _secrets())
        made = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        held = {str(path.relative_to(scratch)): _held(path) for path in made}
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
    """The bundle unpacked into a directory next to it, checked by hash.

    An existing directory is checked and used. Raises ProblemError if the file is no bundle, or is damaged.
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
                    raise ProblemError(f"{file} lacks {lost[0]}, which its index lists; get the bundle again")
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
    member = archive.extractfile(first)
    data = member.read() if member else b""
    where = f"{file}, {_INDEX}"
    check_version(where, data, "bundle_version", BUNDLE_VERSION)
    bundle = parsed(TypeAdapter(Bundle), data, where)
    if unexpected := [name for name in bundle.files if not _FILE.fullmatch(name)]:
        raise ProblemError(f"{file} holds {unexpected[0]!r}, which no run has; it is not opened")
    return bundle


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, facts: Held, file: Path) -> None:
    source = archive.extractfile(member) if member.isfile() and member.size <= _MOST else None
    if source is None:
        raise ProblemError(f"{file} holds {member.name} as no plain file of at most 4 GiB; it is not opened")
    target = directory / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    if _held(target) != facts:
        raise ProblemError(
            f"{member.name} in {file} does not have the hash that it was packed with; get the bundle again"
        )


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


def _copy(directory: Path, target: Path, secrets: re.Pattern[str]) -> None:
    """The run without secrets, and its configuration also without paths. That gives its shards new keys."""

    def anywhere(text: str) -> str:
        return _KEYS.sub("***", secrets.sub(lambda m: "~" if m[0].startswith("/") else "***", text))

    def setting(text: str) -> str:
        text = _GIVEN.sub(r"\1***", _IN_URL.sub("***@", anywhere(text)))
        return _PATH.sub(lambda m: Path(m[0]).name, text)

    run, problems = read_run(directory), read_problems(directory)
    config = _walk(run.config.model_dump(mode="json"), setting)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    copy = RunDirectory(target, Config.model_validate(config))
    with (target / "problems.jsonl").open("w", encoding="utf-8") as out:
        for problem in problems:
            problem_without_paths = Problem.model_validate(_walk(problem.model_dump(mode="json"), anywhere))
            out.write(problem_without_paths.model_dump_json() + "\n")
            shard = run.shard(problem)
            if shard is None:
                continue
            row = _walk(shard.model_dump(mode="json"), anywhere) | {"key": copy.key(problem_without_paths)}
            for solve in row["solves"]:
                solve["settings"] = _walk(solve["settings"], setting)
            path = copy.path(row["key"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row, separators=(",", ":")) + "\n")
    if (directory / "results.json").is_file():
        try:
            results = json.loads((directory / "results.json").read_bytes())
        except ValueError:
            raise ProblemError(
                f"{directory / 'results.json'} is damaged; make it again with `evaluate report`"
            ) from None
        (target / "results.json").write_text(json.dumps(_walk(results, setting), indent=2) + "\n")


def _walk(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_walk(part, change) for part in value]
    if isinstance(value, dict):
        return {key: _walk(part, change) for key, part in value.items()}
    return value
