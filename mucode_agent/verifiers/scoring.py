"""Logits of programs by a transformers sequence classifier: batched by length, the problem's part read once.

The score is read at the last token, which is never padding (see `verifiers.text`). So transformers, which pools the
rightmost token other than the pad token, and vLLM, which pools the last one, agree.
"""

import inspect
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DynamicCache

from mucode_agent.models.checkpoints import best_device, best_dtype, first_line, of_the_hub, quiet
from mucode_agent.prompts import task
from mucode_agent.types import InfrastructureError, Problem, ProblemError
from mucode_agent.verifiers.text import verifier_text

BATCH_TOKENS = 8192
"""Tokens of one forward pass, padding included."""
SHORTEST_PREFIX = 32
"""Least number of common tokens for which reading them once is worth an extra forward pass."""


class Scorer:
    """A loaded classifier with its tokenizer. Threads may share it: one forward pass at a time."""

    def __init__(self, model: Any, tokenizer: Any, *, chat: bool = False) -> None:
        self.model, self.tokenizer, self.chat = model, tokenizer, chat
        self.device = model.device
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.pad = pad_token(tokenizer)
        model.config.pad_token_id = self.pad
        self._trunk = getattr(model, model.base_model_prefix, None)
        self._head = getattr(model, "score", None)
        parameters = inspect.signature(self._trunk.forward).parameters if self._trunk is not None else {}
        self._cache = next((name for name in ("cache", "past_key_values") if name in parameters), None)
        self._one_at_a_time = threading.Lock()

    def logits(self, problem: Problem, codes: Sequence[str], *, share_prefix: bool = True) -> list[float]:
        """R(x, y) of each program, in order. With `share_prefix` the tokens in common are read once."""
        rows = [self.encode(problem, code) for code in codes]
        if not rows:
            return []
        prefix = _common(rows) if share_prefix and self._head is not None and self._cache is not None else 0
        with self._one_at_a_time, torch.inference_mode():
            if len(rows) > 1 and prefix >= SHORTEST_PREFIX:
                scored = self._after_prefix(rows, prefix)
            else:
                scored = self._whole(rows)
        if not all(map(math.isfinite, scored)):
            raise InfrastructureError(
                f"the verifier {self.model.name_or_path!r} computed no finite numbers in {self.model.dtype}: "
                "its weights are damaged, or it needs another dtype, such as float32"
            )
        return scored

    def encode(self, problem: Problem, code: str) -> list[int]:
        """The tokens of (x, y). Raises ProblemError if there are more than the model can read."""
        ids: list[int]
        if self.chat and self.tokenizer.chat_template:
            messages = [
                {"role": "user", "content": task(problem)},
                {"role": "assistant", "content": f"```python\n{code.strip()}\n```"},
            ]
            ids = self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        else:
            ids = self.tokenizer(verifier_text(problem, code))["input_ids"]
        if self.context is not None and len(ids) > self.context:
            raise ProblemError(
                f"problem {problem.id!r} and a program have {len(ids)} tokens together and the verifier "
                f"{self.model.name_or_path!r} reads at most {self.context}: take one with a longer context"
            )
        return ids

    def _whole(self, rows: Sequence[list[int]]) -> list[float]:
        scored = [0.0] * len(rows)
        for batch in batches([len(row) for row in rows], BATCH_TOKENS):
            ids, mask = padded([rows[i] for i in batch], self.pad)
            output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
            for i, logit in zip(batch, output.logits.float().squeeze(-1).tolist(), strict=True):
                scored[i] = logit
        return scored

    def _after_prefix(self, rows: Sequence[list[int]], prefix: int) -> list[float]:
        assert self._trunk is not None
        assert self._head is not None
        assert self._cache is not None
        scored = [0.0] * len(rows)
        first = torch.tensor([rows[0][:prefix]], device=self.device)
        read: Any = DynamicCache(config=self.model.config)
        self._trunk(input_ids=first, use_cache=True, **{self._cache: read})
        for batch in batches([len(row) - prefix for row in rows], BATCH_TOKENS):
            ids, mask = padded([rows[i][prefix:] for i in batch], self.pad)
            cache: Any = DynamicCache(config=self.model.config)
            for number, layer in enumerate(read.layers):
                cache.update(
                    layer.keys.expand(len(batch), -1, -1, -1), layer.values.expand(len(batch), -1, -1, -1), number
                )
            seen = torch.cat([torch.ones(len(batch), prefix, dtype=mask.dtype), mask], dim=1)
            output = self._trunk(
                input_ids=ids.to(self.device),
                attention_mask=seen.to(self.device),
                use_cache=True,
                **{self._cache: cache},
            )
            last = mask.sum(1).to(self.device) - 1
            hidden = output.last_hidden_state[torch.arange(len(batch), device=self.device), last]
            for i, logit in zip(batch, self._head(hidden).float().squeeze(-1).tolist(), strict=True):
                scored[i] = logit
        return scored


def load_scorer(model: str, device: str | None = None, dtype: str | None = None, *, chat: bool = False) -> Scorer:
    """The classifier at `model`, a directory or a hub id. Raises ProblemError if it does not have one logit."""
    device = device or best_device()
    try:
        with quiet():
            path = Path(model).expanduser()
            place = str(path) if path.exists() else of_the_hub(model)
            kind = getattr(torch, dtype or best_dtype(device))
            loaded, report = AutoModelForSequenceClassification.from_pretrained(
                place, dtype=kind, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise ProblemError(
            f"no verifier could be loaded from {model!r} ({first_line(error)}): give a directory that `train "
            "verifier` wrote, or a reward model that this machine can reach"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ProblemError(
            f"{model!r} is no trained verifier: it has no weights for {missing[0]}; "
            "give one that `train verifier` wrote"
        )
    if loaded.config.num_labels != 1:
        raise ProblemError(f"{model!r} has {loaded.config.num_labels} logits, a verifier has one; give a reward model")
    return Scorer(loaded.train(False).to(device=device), tokenizer, chat=chat)


def pad_token(tokenizer: Any) -> int:
    """An id to pad with. It never ends a text, so pooling the rightmost other token finds the text's last one."""
    chosen = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(chosen if chosen is not None else 0)


def batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """Indices by length, longest first, in batches of at most `most_tokens` once padded (and at least one)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, L), padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def _common(rows: Sequence[list[int]]) -> int:
    """Length of the prefix that all rows share; each row keeps at least one token after it."""
    first, last = min(rows), max(rows)
    shortest = min(map(len, rows)) - 1
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(same, shortest), shortest)
