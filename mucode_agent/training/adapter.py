"""Writes a trained generator's LoRA adapter as data that can ship: tensors in bfloat16, and a card.

It is written only if, merged into the base, it gives the generator's own weights: what ships is what was measured.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mucode_agent.files import digest, file_sha256, write_whole
from mucode_agent.models.adapter import CARD, TENSORS, AdapterCard, merge, pairs
from mucode_agent.models.checkpoints import quiet
from mucode_agent.models.embedded import EMBEDDED
from mucode_agent.runs.config import environment
from mucode_agent.runs.reading import read_run
from mucode_agent.training.bases import base_path, base_sha256, reading
from mucode_agent.training.data import read_attempts
from mucode_agent.training.examples import without_overlap
from mucode_agent.training.generator import ADAPTER, read_generator_card
from mucode_agent.types import Problem, ProblemError, Record

_PEFT_PREFIX = "base_model.model."
_PLAIN = {"use_dora": False, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "bias": "none"}
"""Settings of PEFT under which an adapter is W + α/r · B · A and nothing else."""
_ROUNDING = 2**-7
"""Mean difference over mean size of a merged weight that bfloat16 explains: it is rounded twice there, once here."""


class Origin(Record):
    """The facts for a card that no file contains."""

    made: str
    base: str
    """An embedded model, or a checkpoint directory."""
    licence: str
    data: str
    trained_by: str = ""


def export_adapter(
    generator: Path, out: Path, origin: Origin, *, traces: Sequence[Path] = (), apart_from: dict[str, Sequence[Problem]]
) -> AdapterCard:
    """Writes `generator`'s adapter and its card into the new directory `out`.

    Args:
        generator: The directory of `train generator` or of a loop's round, trained with `lora_rank`.
        out: The new directory.
        origin: Command, base, licence and source of the data.
        traces: The rollouts that it was trained on; default for a loop's generator: the loop's own.
        apart_from: Evaluation sets by name; none of their problems may be among the training problems.

    Raises:
        ProblemError: There is no plain LoRA adapter, it was trained from another base, or a training problem is also in
            an evaluation set.
    """
    card = read_generator_card(generator)
    if card is None:
        raise ProblemError(f"{generator} is no finished generator; give a directory of `train generator` or a round's")
    if out.exists():
        raise ProblemError(f"{out} already exists; give a new directory")
    directories = list(traces) or _rollouts_of_loop(generator)
    _check_apart(generator, directories, apart_from)
    tensors, scale, rank = _adapter(generator / ADAPTER)
    out.mkdir(parents=True)
    try:
        save_file(tensors, out / TENSORS)
        made = AdapterCard(
            made=origin.made,
            adapter_sha256=file_sha256(out / TENSORS),
            scale=scale,
            rank=rank,
            parameters=sum(tensor.numel() for tensor in tensors.values()),
            base=origin.base if origin.base in EMBEDDED else base_path(origin.base).name,
            base_sha256=EMBEDDED[origin.base].sha256 if origin.base in EMBEDDED else base_sha256(origin.base) or "",
            licence=origin.licence,
            data=origin.data,
            data_sha256=card.data_sha256,
            rows=card.rows,
            prompt=card.prompt,
            training={**card.training, "steps": card.steps, "loss": card.loss},
            trained_by=origin.trained_by,
            rollouts=tuple(
                without_paths(read_run(path).config.identity.model_dump(mode="json"))
                for path in directories
                if (path / "config.json").exists()
            ),
            loop=_loop(generator),
            code=_code(),
            apart_from=tuple(apart_from),
        )
        write_whole(out / CARD, made.model_dump_json(indent=1) + "\n")
        _check_merged(generator, out, origin.base)
    except BaseException:
        shutil.rmtree(out)
        raise
    return made


def _rollouts_of_loop(generator: Path) -> list[Path]:
    """The rollouts of the rounds up to the generator's own; empty if it is in no loop's directory."""
    number = generator.resolve().parent.name.removeprefix("round-")
    rounds = range(1, int(number) + 1) if number.isdigit() else ()
    return [generator.resolve().parents[1] / f"round-{i}" / "rollouts" for i in rounds]


def _check_apart(generator: Path, directories: Sequence[Path], apart_from: dict[str, Sequence[Problem]]) -> None:
    if not apart_from:
        return
    if not directories:
        raise ProblemError(f"{generator} is in no loop's directory; give the --traces that it was trained on")
    trained = [entry.problem for entry in read_attempts(directories)]
    without_overlap(trained, [problem for problems in apart_from.values() for problem in problems], drop=False)


def _adapter(directory: Path) -> tuple[dict[str, torch.Tensor], float, int]:
    """A PEFT adapter's tensors by our names, its scale and rank. Raises ProblemError if it is no plain LoRA."""
    try:
        config = json.loads((directory / "adapter_config.json").read_bytes())
        loaded = load_file(directory / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise ProblemError(
            f"{directory} holds no LoRA adapter ({error}); train the generator with --lora-rank of at least 1"
        ) from None
    other = [name for name, plain in _PLAIN.items() if config.get(name, plain) not in (plain, None)]
    unexpected = sorted(name for name in loaded if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    if other or unexpected:
        raise ProblemError(
            f"{directory} is no plain LoRA adapter: it has {', '.join([*other, *unexpected][:4])}; train it again by "
            "`train generator`"
        )
    tensors = {
        name.removeprefix(_PEFT_PREFIX).removesuffix(".weight"): tensor.to(torch.bfloat16).contiguous()
        for name, tensor in sorted(loaded.items())
    }
    pairs(tensors, directory)
    return tensors, config["lora_alpha"] / config["r"], config["r"]


def _check_merged(generator: Path, adapter: Path, base: str) -> None:
    """Raises ProblemError if base plus adapter differ from the weights in `generator`."""
    with reading(base) as place:
        mine: Any = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    merge(mine, adapter)
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(generator, dtype=torch.bfloat16).state_dict()
    adapted = {f"{module}.weight" for module in pairs(load_file(adapter / TENSORS), adapter)}
    for name, tensor in mine.state_dict().items():
        other = theirs.get(name)
        if other is None or other.shape != tensor.shape:
            raise ProblemError(f"{generator} was trained from another model than {base}: {name} differs in shape")
        apart = (tensor.float() - other.float()).abs().mean()
        if apart > (_ROUNDING * other.float().abs().mean() if name in adapted else 0):
            raise ProblemError(
                f"{generator} was trained from other weights than those of {base}: {name} differs by {apart:.2g} on "
                "average; give the base that it was trained from"
            )


def _loop(generator: Path) -> dict[str, Any]:
    """The loop's configuration, without the paths of this machine; empty for a generator outside a loop."""
    try:
        identity = json.loads((generator.resolve().parents[1] / "config.json").read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    named: dict[str, Any] = without_paths(identity)
    return named


def without_paths(value: Any) -> Any:
    """A setting or command without directories: `mbpp:/data/train.jsonl` becomes `mbpp:train.jsonl`."""
    if isinstance(value, dict):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_paths(part) for part in value]
    if isinstance(value, str) and "/" in value and " " not in value:  # no text for people
        kind, colon, path = value.rpartition(":")
        return f"{kind}{colon}{Path(path).name}"
    return value


def _code() -> dict[str, str]:
    """Versions, and a digest of this package's source."""
    package = Path(__file__).parents[1]
    sources = {str(path.relative_to(package)): file_sha256(path) for path in sorted(package.rglob("*.py"))}
    versions = {name: version for name, version in environment().items() if name != "platform"}
    return {**versions, "source_sha256": digest(sources)}
