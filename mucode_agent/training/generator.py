"""Trains a generator: next-token loss on the answers that states are paired with (paper, section 3.3).

The resulting directory is a plain checkpoint, which transformers and vLLM load directly. `adapter/` also has the LoRA
adapter, for a server that swaps adapters.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import TypeAdapter
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from mucode_agent.files import read_card
from mucode_agent.models.checkpoints import quiet
from mucode_agent.models.decoding import end_tokens
from mucode_agent.prompts import prompt_digest
from mucode_agent.training.bases import base_sha256, reading
from mucode_agent.training.encoding import EncodedRow, answer_losses, collated, encode_row
from mucode_agent.training.fit import (
    Fitted,
    begin,
    fit,
    hold_training,
    is_main_process,
    merged,
    place,
    seed_everything,
    trainable,
    whole,
    write_card,
    writing,
)
from mucode_agent.training.relabel import Row, rows_sha256
from mucode_agent.training.settings import GeneratorSettings
from mucode_agent.types import ProblemError, Record
from mucode_agent.verifiers.scoring import pad_token

CARD = "mucode_generator.json"
ADAPTER = "adapter"


class GeneratorCard(Record):
    """The origin of a trained generator."""

    card_version: Literal[1] = 1
    base: str
    """The checkpoint that it was trained from; the same in every round."""
    prompt: str
    """Digest of the wording that it was trained on."""
    data_sha256: str
    """SHA-256 of the rows."""
    rows: int
    """Rows trained on."""
    left_out: int
    """Rows that were longer than `max_tokens` or the model's context."""
    target_tokens: int
    """Tokens of the answers, which the loss covers in one epoch."""
    training: dict[str, float | int | str | bool | None]
    """Settings."""
    steps: int
    loss: float | None
    """Mean over the last tenth of the steps."""


class TrainedGenerator(Record):
    """A trained generator, and its training."""

    directory: Path
    card: GeneratorCard
    fitted: Fitted | None
    """None if the directory was finished before."""


def train_generator(
    rows: Sequence[Row],
    *,
    base: str,
    out: Path,
    settings: GeneratorSettings | None = None,
    console: Console | None = None,
) -> TrainedGenerator:
    """Fine-tunes `base` on `rows`, and writes checkpoint, card and README into `out`.

    A row's loss is the mean over its answer's tokens, and a step's the mean over its rows, times their weights.
    Continues from the last checkpoint if `out` holds the same training, and returns at once if that is finished.

    Args:
        rows: States with their answers; see `training.relabel`.
        base: A checkpoint directory or hub id.
        out: A new directory, or that of the same training.
        settings: Rates, sizes, LoRA.
        console: Where progress is printed; standard error unless given.

    Raises:
        ProblemError: No row is short enough, the base's chat template cannot be trained on, or `out` holds something
            else.
        InfrastructureError: The disk refuses.
    """
    settings = settings or GeneratorSettings()
    sha256 = rows_sha256(rows)
    identity = {
        "kind": "generator",
        "base": base,
        "base_sha256": base_sha256(base),
        "data_sha256": sha256,
        "prompt": prompt_digest(),
        **settings.model_dump(mode="json", exclude={"save_steps"}),
    }
    begun = (out / "training.json").exists()
    if begun:
        begin(out, identity)
    if begun and (card := read_generator_card(out)) is not None:
        return TrainedGenerator(directory=out, card=card, fitted=None)
    model, tokenizer = _base(base, settings)
    kind = model.config.dtype  # as the base's file has it
    encoded_rows = encoded(rows, tokenizer, model, settings)
    if not begun:  # unusable settings or data leave no directory behind
        begin(out, identity)
    with hold_training(out):
        pad = pad_token(tokenizer)
        model = trainable(model, settings, task="CAUSAL_LM")
        fitted = fit(
            model,
            encoded_rows,
            collate=lambda batch: collated(batch, pad),
            loss=answer_losses,
            directory=out,
            settings=settings,
            length=lambda example: example.tokens,
            weight=lambda example: example.weight,
            console=console,
        )
        card = GeneratorCard(
            base=base,
            prompt=prompt_digest(),
            data_sha256=sha256,
            rows=len(encoded_rows),
            left_out=len(rows) - len(encoded_rows),
            target_tokens=sum(len(example.target) for example in encoded_rows),
            training=settings.model_dump(mode="json"),
            steps=fitted.steps,
            loss=fitted.loss,
        )
        model = whole(model, lambda: trainable(_base(base, settings)[0], settings, task="CAUSAL_LM"))
        if is_main_process():
            _save(model, tokenizer, out, kind, adapter=bool(settings.lora_rank))
            write_card(out, CARD, card, readme(card))
    return TrainedGenerator(directory=out, card=card, fitted=fitted)


def encoded(rows: Sequence[Row], tokenizer: Any, model: Any, settings: GeneratorSettings) -> list[EncodedRow]:
    """The rows that are short enough, as tokens. Raises ProblemError if none is."""
    if not rows:
        raise ProblemError(
            "there is no row to learn from: no problem is solved; give more traces, or unsolved best-wrong"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    most = min(settings.max_tokens, context or settings.max_tokens)
    ends = end_tokens(model, tokenizer)
    encoded_rows = [example for row in rows if (example := encode_row(row, tokenizer, ends)).tokens <= most]
    if not encoded_rows:
        raise ProblemError(f"each of the {len(rows)} rows has more than {most} tokens; raise max_tokens")
    return encoded_rows


def read_generator_card(directory: Path) -> GeneratorCard | None:
    """The card next to the weights; None if there is none. Raises ProblemError if it is damaged."""
    return read_card(directory / CARD, TypeAdapter(GeneratorCard), of="generator")


def readme(card: GeneratorCard) -> str:
    """The model card for people."""
    rank, how = card.training.get("lora_rank"), card.training
    settings = f"{how['epochs']} epochs, learning rate {how['learning_rate']}, batch {how['batch_size']}"
    lines = [
        "# A µCODE generator",
        "",
        f"Fine-tuned from `{card.base}` to answer a programming problem, with any attempts and feedback that came",
        "before, with one whole program.",
        "",
        f"- rows: {card.rows}, {card.target_tokens} answer tokens; {card.left_out} left out as too long",
        f"- data: sha256 `{card.data_sha256[:16]}` · prompt wording `{card.prompt}`",
        f"- {settings}, {f'LoRA rank {rank}' if rank else 'all weights'}, seed {how['seed']}; {card.steps} steps",
        "- used: `python -m mucode_agent solve problem.json --model hf:DIRECTORY`, or `vllm serve DIRECTORY`",
    ]
    if rank:
        lines.append(f"- the adapter alone is in `{ADAPTER}/`")
    return "\n".join(lines) + "\n"


def _base(base: str, settings: GeneratorSettings) -> tuple[Any, Any]:
    seed_everything(settings.seed)
    with reading(base) as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
    if not settings.lora_rank:
        kind = model.config.dtype
        model.to(dtype=torch.float32)  # training needs float32's small steps
        model.config.dtype = kind
    return model.to(device=place()), tokenizer


def _save(model: Any, tokenizer: Any, out: Path, kind: Any, *, adapter: bool) -> None:
    """Writes the checkpoint in the base's own dtype, and the adapter next to it."""
    with writing(out), quiet():
        if adapter:
            model.save_pretrained(out / ADAPTER)
        merged(model).to(dtype=kind).save_pretrained(out)
        tokenizer.save_pretrained(out)
