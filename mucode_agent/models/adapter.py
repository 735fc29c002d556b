"""A LoRA adapter that ships as data: a directory with `adapter.safetensors` and `card.json`.

The tensors are bfloat16, named `MODULE.lora_A` (rank, in) and `MODULE.lora_B` (out, rank) by the base's modules; a
weight W becomes W + scale · B · A (Hu et al., arXiv 2106.09685). It is merged in float32, so each weight is rounded
once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from mucode_agent.files import file_sha256, parsed, read_bytes
from mucode_agent.types import ProblemError, Record

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, CARD = "adapter.safetensors", "card.json"
ADAPTERS = Path(__file__).parent / "adapters"
"""The adapters of this package, each in a directory with the embedded model's name."""


class AdapterCard(Record):
    """An adapter's origin, and the base that it may be merged into."""

    version: Literal[1] = 1
    made: str
    """The command that wrote it."""
    adapter_sha256: str
    """SHA-256 of the tensors' file."""
    scale: float
    """α / r of LoRA."""
    rank: int
    parameters: int
    base: str
    """The embedded model that it was trained from, or a directory's name."""
    base_sha256: str
    """SHA-256 of the base's GGUF file; for a directory, `models.identity.weights_sha256`."""
    licence: str
    """Licence of the base, and so of the adapter."""
    data: str
    """The training problems' source and licence."""
    data_sha256: str
    """Digest of the rows that it was trained on."""
    rows: int
    prompt: str
    """Digest of the wording that it was trained on."""
    training: dict[str, Any]
    """Settings, steps and loss of the last fine-tuning."""
    trained_by: str
    """The command that trained it; empty if `loop` contains it."""
    rollouts: tuple[dict[str, Any], ...]
    """Configuration of the rollouts that the rows were made from, without paths."""
    loop: dict[str, Any]
    """Settings of the loop that it comes from, without paths; the digests of its problems."""
    code: dict[str, str]
    """Versions, and the digest of this package's source when the adapter was written."""
    apart_from: tuple[str, ...] = ()
    """The evaluation sets that share no problem with the training problems."""


def read_adapter_card(directory: Path) -> AdapterCard:
    """Raises ProblemError if there is no card of this version."""
    path, wrong = directory / CARD, "is no adapter card of this version"
    return parsed(
        TypeAdapter(AdapterCard), read_bytes(path, remedy=_REINSTALL), str(path), wrong=wrong, remedy=_REINSTALL
    )


_REINSTALL = "install this package again, or give another model"


def merge(model: Any, directory: Path) -> None:
    """Adds an adapter to the model's weights, which keep their dtype.

    Raises ProblemError if the adapter is damaged or does not fit the model.
    """
    import torch
    from safetensors.torch import load_file

    card, path = read_adapter_card(directory), directory / TENSORS
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror}; {_REINSTALL}") from None
    if found != card.adapter_sha256:
        raise ProblemError(
            f"the adapter {path} has sha256 {found[:12]}, and its card says {card.adapter_sha256[:12]}: install this "
            "package again"
        )
    modules = dict(model.named_modules())
    with torch.no_grad():
        for module, (down, up) in pairs(load_file(path), path).items():
            weight = getattr(modules.get(module), "weight", None)
            if weight is None or (len(up), down.shape[1]) != tuple(weight.shape):
                has = "does not have it" if weight is None else " by ".join(map(str, weight.shape))
                raise ProblemError(
                    f"the adapter {path} is {len(up)} by {down.shape[1]} at {module}, and the model {has}: give the "
                    f"base that it was trained from, {card.base}"
                )
            weight.copy_(weight.float() + card.scale * (up.float() @ down.float()))


def pairs(tensors: "dict[str, Tensor]", path: Path) -> "dict[str, tuple[Tensor, Tensor]]":
    """A and B by module. Raises ProblemError if one of them is missing."""
    modules = sorted({name.rpartition(".lora_")[0] for name in tensors})
    try:
        return {name: (tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"]) for name in modules}
    except KeyError as missing:
        raise ProblemError(f"the adapter {path} lacks {missing}; write it again with `train export-adapter`") from None
