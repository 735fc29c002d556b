"""The identity of a generator, to which programs, calibrations and rollouts belong."""

import functools
import hashlib
from pathlib import Path
from typing import Any

from mucode_agent.models.embedded import EMBEDDED, embedded_identity

_DIGITS = 12


def generator_identity(model: Any) -> str:
    """The name, followed by `@` and a digest of the weights if they are on this machine.

    `model` is a model string or a chat model. The address of a server is not included: any server of the model may
    draw. For a path the name is its last part, so a directory and a server of it have the same name.
    """
    if not isinstance(model, str):
        model = model_name(model)
    kind, _, rest = model.strip().partition(":")
    if kind == "hf":
        return _of(rest)
    if kind in ("vllm", "openai") and "@" in rest:
        return _of(rest.rpartition("@")[0])
    return embedded_identity(model.strip()) if model.strip() in EMBEDDED else _of(model.strip())


def model_name(model: Any) -> str:
    """A chat model's name in traces, without the address of a server."""
    return str(getattr(model, "model_name", None) or getattr(model, "model", None) or type(model).__name__)


def same_generator(a: str, b: str) -> bool:
    """Whether two identities name the same generator. Digests are compared if both have one."""
    (name, _, digest), (other, _, others) = a.partition("@"), b.partition("@")
    return name == other and (not digest or not others or digest == others)


def weights_sha256(path: Path) -> str:
    """SHA-256 of a checkpoint's files: a directory's own, or the file itself."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    return _sha256(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def _of(name: str) -> str:
    path = Path(name).expanduser()
    if not path.exists():
        return Path(name).name or name
    return f"{path.resolve().name}@{weights_sha256(path)[:_DIGITS]}"


@functools.lru_cache(maxsize=64)
def _sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    """Sizes and times are parameters, so changed files are read again."""
    total = hashlib.sha256()
    for name, _, _ in files:
        with Path(name).open("rb") as opened:
            total.update(f"{Path(name).name}\n{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
