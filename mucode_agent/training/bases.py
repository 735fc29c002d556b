"""The checkpoint that a training starts from: its place, its identity, and an error if it cannot be used."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer

from mucode_agent.models.checkpoints import first_line, of_the_hub, quiet
from mucode_agent.models.embedded import EMBEDDED, embedded_checkpoint
from mucode_agent.models.identity import weights_sha256
from mucode_agent.types import ProblemError


@contextlib.contextmanager
def reading(base: str) -> Iterator[str]:
    """The argument of `from_pretrained` for a directory, hub id or embedded model. Raises ProblemError if it fails."""
    try:
        with quiet():
            path = base_path(base)
            yield str(path) if path.exists() else of_the_hub(base)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ProblemError(
            f"no base model could be loaded from {base!r} ({first_line(error)}): give a directory made by "
            "`save_pretrained`, or a hub id that this machine can reach"
        ) from error


def base_path(base: str) -> Path:
    return embedded_checkpoint(base) if base in EMBEDDED else Path(base).expanduser()


def base_sha256(base: str) -> str | None:
    """Digest of the weights and the files next to them; None for a hub id. A path alone does not identify weights."""
    path = base_path(base)
    return weights_sha256(path) if path.exists() else None


def check_base(base: str, *, chats: bool) -> None:
    """Raises ProblemError if `base` cannot be trained, or lacks a chat template that it needs."""
    with reading(base) as place:
        AutoConfig.from_pretrained(place)
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
    if chats and not tokenizer.chat_template:
        raise ProblemError(f"the base {base!r} has no chat template; give one that was trained to follow instructions")
