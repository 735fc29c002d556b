"""Rows as tokens: the prompt as inference encodes it, then the answer and the token that ends it.

The loss covers only the answer's tokens, its end token included, so the model learns to stop after a program.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mucode_agent.training.relabel import Row
from mucode_agent.types import ProblemError


class EncodedRow(NamedTuple):
    """A row as tokens."""

    prompt: tuple[int, ...]
    """The result of `Engine.encode` for the row's messages."""
    target: tuple[int, ...]
    """The tokens to learn; the last one ends the answer."""
    weight: float = 1.0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.target)


def encode_row(row: Row, tokenizer: Any, ends: Collection[int]) -> EncodedRow:
    """The tokens of a row in the tokenizer's own chat template.

    The prompt is the template with its generation prompt. The target is what the template appends for the answer, up to
    its end-of-turn token; without one, the token at which generation stops is added. Raises ProblemError if the
    template does not continue its own prompt, or changes the answer.
    """
    if not tokenizer.chat_template:
        raise ProblemError(
            f"{tokenizer.name_or_path!r} has no chat template, which a chat model needs: "
            "take an instruction-tuned checkpoint"
        )
    messages = [message.model_dump() for message in row.messages]
    prompt = _ids(tokenizer, messages, add_generation_prompt=True)
    whole = _ids(tokenizer, [*messages, {"role": "assistant", "content": row.answer}], add_generation_prompt=False)
    if whole[: len(prompt)] != prompt:
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise ProblemError(
            f"the chat template of {tokenizer.name_or_path!r} does not continue its own prompt: token {same} of "
            f"{len(prompt)} differs once the answer is there; take a checkpoint whose template only appends"
        )
    tail = whole[len(prompt) :]
    stop = next((i for i, token in enumerate(tail) if token in ends), None)
    answer, end = (tail, _end(tokenizer, ends)) if stop is None else (tail[:stop], tail[stop])
    text = tokenizer.decode(answer, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if not text.rstrip().endswith(row.answer.strip()):
        raise ProblemError(
            f"the chat template of {tokenizer.name_or_path!r} changes the answer: it writes {text[-80:]!r} for "
            f"{row.answer[-80:]!r}; take another checkpoint"
        )
    return EncodedRow(prompt=tuple(prompt), target=(*answer, end), weight=row.weight)


def collated(batch: Sequence[EncodedRow], pad: int) -> dict[str, Tensor]:
    """Rows padded on both sides, so all answers begin in the same column and logits are needed only from there.

    `targets` (B, A) holds the answers, -100 where there is none; `input_ids` are (B, P + A).
    """
    before = max(len(row.prompt) for row in batch)
    after = max(len(row.target) for row in batch)
    ids, mask, targets = [], [], []
    for row in batch:
        left, right = before - len(row.prompt), after - len(row.target)
        ids.append([pad] * left + [*row.prompt, *row.target] + [pad] * right)
        mask.append([0] * left + [1] * row.tokens + [0] * right)
        targets.append([*row.target] + [-100] * right)
    seen = torch.tensor(mask)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": seen,
        "position_ids": (seen.cumsum(1) - 1).clamp(min=0),
        "targets": torch.tensor(targets),
    }


def answer_losses(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """For each row, the mean over its answer's tokens of -log p(token | all before), (B,)."""
    ids, targets = batch["input_ids"], batch["targets"]
    start = ids.shape[1] - targets.shape[1] - 1  # the logits of a place are of the token after it
    logits = model(
        input_ids=ids,
        attention_mask=batch["attention_mask"],
        position_ids=batch["position_ids"],
        # as indices: a slice's strides would make PyTorch copy the head's weights once for each row
        logits_to_keep=torch.arange(start, start + targets.shape[1], device=ids.device),
        use_cache=False,
    ).logits
    losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    kept = (targets != -100).sum(1)
    return losses.view_as(targets).sum(1) / kept


def _ids(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=True)
    ids: list[int] = encoded["input_ids"]
    return ids


def _end(tokenizer: Any, ends: Collection[int]) -> int:
    if tokenizer.eos_token_id in ends:
        return int(tokenizer.eos_token_id)
    if not ends:
        raise ProblemError(
            f"{tokenizer.name_or_path!r} has no token that ends an answer: set eos_token in its tokenizer_config.json"
        )
    return min(ends)
