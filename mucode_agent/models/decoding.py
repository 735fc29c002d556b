"""Draws several completions of one prompt from a transformers causal language model.

The prompt is read once and its key-value cache repeated for every row; rows that end are taken out of the batch. Each
row has its own random stream, so what a seed draws does not depend on how many rows are drawn with it, up to the
rounding of batched arithmetic: exact in float32 but for ties, and not guaranteed in bfloat16.
Not covered: repetition penalties, beam search, encoder-decoder models.
"""

import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mucode_agent.types import ContextOverflowError, InfrastructureError, ProblemError

COLDEST = 1e-5
"""A temperature below this is 0: the division would overflow."""
LIKELIEST = 1024
"""Most tokens that `Decoding.top_logprobs` keeps."""
_RANKED = 64
"""Tokens ranked for a draw; more are only when the draw falls beyond them."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. A temperature of 0 takes the likeliest token."""

    temperature: float
    top_p: float
    max_tokens: int
    stop: Sequence[str] = ()
    top_logprobs: int = 0
    """How many of the likeliest tokens are kept with each token, as `Completion.likeliest`."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ProblemError(f"temperature must be at least 0 and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ProblemError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.max_tokens < 1:
            raise ProblemError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.top_logprobs <= LIKELIEST:
            raise ProblemError(f"top_logprobs must be from 0 to {LIKELIEST}, got {self.top_logprobs}")


@dataclass
class Completion:
    """One row: its tokens so far, and its text where somebody needs it before the end."""

    seed: int
    ids: list[int] = field(default_factory=list)
    """Every token drawn, the one that ended the text included."""
    logprobs: list[float] = field(default_factory=list)
    """The tokens' log-probabilities under the model itself: temperature 1, no top-p."""
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    """Where asked for: for each token the likeliest ids in its place, with log-probabilities, likeliest first."""
    text: str = ""
    finish_reason: str = ""
    """`stop` or `length`; empty while the row is being drawn."""
    shown: int = 0
    """Tokens in the text but for the last few, which `_read_text` decodes again with the next one."""
    read: int = 0

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed % 2**63)


class Rows(Protocol):
    """The key-value cache of some completions of one prompt."""

    def read(self, prompt: Tensor, count: int) -> Tensor:
        """Logits (count, V) of the token that follows the prompt (1, P)."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) of the token that follows one more token (B,) of each row."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drops all other rows."""
        ...


class Engine:
    """A loaded model with its tokenizer. Threads may share it: one forward pass at a time, so requests interleave."""

    name: str
    device: torch.device
    dtype: torch.dtype
    context: int | None
    """Tokens of prompt and completion together."""
    ends: set[int]
    """The tokens that end an answer."""
    has_chat_template: bool

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()

    def _rows(self) -> Rows:
        raise NotImplementedError

    def _encode(self, messages: list[dict[str, str]]) -> Tensor:
        raise NotImplementedError

    def _decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError

    def encode(self, messages: list[dict[str, str]]) -> Tensor:
        """The prompt's tokens, (1, P), in the checkpoint's own chat template."""
        if not self.has_chat_template:
            raise ProblemError(
                f"{self.name!r} has no chat template, which a chat model needs: take an instruction-tuned checkpoint"
            )
        prompt = self._encode(messages)
        if self.context is not None and prompt.shape[1] >= self.context:
            raise ContextOverflowError(
                f"the prompt has {prompt.shape[1]} tokens and {self.name!r} reads at most {self.context}, "
                "the answer included: shorten the prompt or take a model with a longer context"
            )
        return prompt

    def draw(
        self,
        prompt: Tensor,
        completions: Sequence[Completion],
        how: Decoding,
        *,
        incremental: bool = False,
        cancelled: threading.Event | None = None,
    ) -> Iterator[None]:
        """Fills the completions, one token of each per step. `incremental` keeps `text` up to date at every step."""
        room = how.max_tokens if self.context is None else min(how.max_tokens, self.context - prompt.shape[1])
        rows, cache = list(completions), self._rows()
        with self._one_at_a_time, torch.inference_mode():
            logits = cache.read(prompt.to(self.device), len(rows))
        while True:
            tokens, logprobs = choose(logits, [row.random for row in rows], how.temperature, how.top_p)
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
                self._append(row, token, logprob, room, how.stop, incremental)
            if how.top_logprobs:
                top = logits.log_softmax(-1).topk(min(how.top_logprobs, logits.shape[1]))
                for row, found, ids in zip(rows, top.values.tolist(), top.indices.tolist(), strict=True):
                    row.likeliest.append(list(zip(ids, found, strict=True)))
            yield
            live = [i for i, row in enumerate(rows) if not row.finish_reason]
            if not live or (cancelled is not None and cancelled.is_set()):
                return
            if len(live) < len(rows):
                keep = torch.tensor(live, device=self.device)
                rows, tokens = [rows[i] for i in live], tokens[keep]
                cache.keep(keep)
            with self._one_at_a_time, torch.inference_mode():
                logits = cache.step(tokens)

    def _append(
        self, row: Completion, token: int, logprob: float, room: int, stop: Sequence[str], incremental: bool
    ) -> None:
        if not math.isfinite(logprob):
            raise InfrastructureError(
                f"{self.name!r} computed no finite numbers in {self.dtype}: its weights are damaged, "
                "or it needs another dtype, such as float32"
            )
        row.ids.append(token)
        row.logprobs.append(logprob)
        if token in self.ends:
            row.finish_reason = "stop"
        elif len(row.ids) >= room:
            row.finish_reason = "length"
        if incremental or stop:
            self._read_text(row, stop)
        elif row.finish_reason:
            row.text = self._decode(row.ids)

    def _read_text(self, row: Completion, stop: Sequence[str]) -> None:
        """Appends what the new token makes readable. Bytes of an unfinished character wait for the rest of it."""
        before = self._decode(row.ids[row.shown : row.read])
        now = self._decode(row.ids[row.shown :])
        if now.endswith("\ufffd") and not row.finish_reason:
            return
        searched = max(0, len(row.text) - max(map(len, stop), default=0))
        row.text += now[len(before) :]
        row.shown, row.read = row.read, len(row.ids)
        found = [at for at in (row.text.find(word, searched) for word in stop) if at >= 0]
        if found:
            row.text, row.finish_reason = row.text[: min(found)], "stop"

    def pieces(self, row: Completion) -> list[str]:
        """The text of each token."""
        return [self._decode([token]) for token in row.ids]

    def likeliest(self, row: Completion) -> list[list[tuple[str, float]]]:
        """`row.likeliest` with the tokens' texts for their ids."""
        return [[(self._decode([token]), logprob) for token, logprob in place] for place in row.likeliest]


class TransformersEngine(Engine):
    """Any causal language model of transformers, with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.name, self.device, self.dtype = model.name_or_path, model.device, model.dtype
        self.context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.ends = end_tokens(model, tokenizer)
        self.has_chat_template = bool(tokenizer.chat_template)

    def _rows(self) -> Rows:
        return _TransformersRows(self.model)

    def _encode(self, messages: list[dict[str, str]]) -> Tensor:
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        prompt: Tensor = encoded["input_ids"]
        return prompt

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class _TransformersRows:
    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._name = "cache" if "cache" in parameters else "past_key_values"
        self._cache: Any = DynamicCache(config=model.config)

    def read(self, prompt: Tensor, count: int) -> Tensor:
        logits = self._forward(prompt).expand(count, -1)
        self.keep(torch.zeros(count, dtype=torch.long, device=prompt.device))
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        return self._forward(tokens.unsqueeze(1))

    def keep(self, rows: Tensor) -> None:
        self._cache.reorder_cache(rows)

    def _forward(self, ids: Tensor) -> Tensor:
        output = self._model(input_ids=ids, use_cache=True, logits_to_keep=1, **{self._name: self._cache})
        logits: Tensor = output.logits[:, -1].float()
        return logits


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    config = model.config.get_text_config()
    ends = [model.generation_config.eos_token_id, config.eos_token_id, tokenizer.eos_token_id]
    return {i for end in ends if end is not None for i in ([end] if isinstance(end, int) else end)}


def choose(
    logits: Tensor, streams: Sequence[torch.Generator], temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Next tokens (B,) and their log-probabilities (B,) from logits (B, V).

    Inverts the cumulative distribution, likeliest token first, at one uniform number of each row's stream. The nucleus
    of `top_p` is the smallest set of likeliest tokens that holds at least that mass.
    """
    if temperature < COLDEST:
        tokens = logits.argmax(-1)
    else:
        uniform = torch.stack([torch.rand((), generator=stream, dtype=torch.float64) for stream in streams])
        uniform = uniform.unsqueeze(1).to(logits.device)
        needed = uniform if top_p >= 1 else torch.full_like(uniform, top_p)
        mass, ranked = _ranked(torch.softmax(logits / temperature, -1), _RANKED, needed)
        total = mass[:, -1:] if top_p >= 1 else mass.gather(1, _place(mass, needed, right=False))
        whole = mass.shape[1] == logits.shape[1] or top_p < 1
        tokens = ranked.gather(1, _place(mass, uniform * total if whole else uniform, right=True)).squeeze(1)
    return tokens, logits.log_softmax(-1).gather(1, tokens.unsqueeze(1)).squeeze(1)


def _ranked(probabilities: Tensor, k: int, needed: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative mass and ids of the likeliest tokens, (B, k), or of more where k do not hold the mass needed."""
    vocabulary = probabilities.shape[1]
    top, ids = probabilities.topk(min(k, vocabulary))
    mass = top.cumsum(-1, dtype=torch.float64)
    if mass.shape[1] == vocabulary or bool((mass[:, -1:] > needed).all()):
        return mass, ids
    return _ranked(probabilities, 16 * k, needed)


def _place(mass: Tensor, at: Tensor, *, right: bool) -> Tensor:
    return torch.searchsorted(mass, at, right=right).clamp(max=mass.shape[1] - 1)
