"""The forward pass of the embedded models in plain torch: Llama's architecture, Qwen2's being one with biases.

It spares a first answer the import of transformers, which takes longer than the answer. The keys and values of a prompt
are held once for all rows, and each row's own behind them; projections that read the same input are one matrix.
A directory holds the weights in bfloat16, as transformers writes them, or as `write_int8` does: int8 with a scale for
each output, read in place.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from mucode_agent.models.decoding import Engine
from mucode_agent.models.int8 import Int8Linear, packing, rounded_to_int8

_WEIGHTS = "model.safetensors"
_BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_MERGED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""Our matrices of a layer, and those that they are made of, below each other."""
_ROOM = 64
"""Tokens that the rows have room for at first; it doubles when it is full."""

Linear = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    norm: Tensor
    qkv: Linear
    out: Linear
    second_norm: Tensor
    up: Linear
    down: Linear


class Decoder:
    """A model in float32 or int8 on the CPU."""

    def __init__(self, directory: Path, *, int8: bool) -> None:
        """Raises OSError, ValueError, KeyError, SafetensorError where the directory holds no such model."""
        config = json.loads((directory / "config.json").read_bytes())
        rope = config["rope_parameters"]
        if config["hidden_act"] != "silu" or rope["rope_type"] != "default" or config.get("use_sliding_window"):
            raise ValueError(f"{directory} is no plain Llama or Qwen2")
        self.context: int = config["max_position_embeddings"]
        self.heads: int = config["num_attention_heads"]
        self.groups: int = config["num_key_value_heads"]
        self.size: int = config.get("head_dim") or config["hidden_size"] // self.heads
        self._epsilon: float = config["rms_norm_eps"]
        self._frequencies = rope["rope_theta"] ** -(torch.arange(0, self.size, 2, dtype=torch.float) / self.size)
        with (
            packing() if int8 else contextlib.nullcontext(),
            safe_open(directory / _WEIGHTS, "pt") as file,
            ThreadPoolExecutor(torch.get_num_threads()) as threads,  # packing takes one core for each matrix
        ):
            stored = _Stored(file)

            def linear(*names: str) -> Linear:
                return _linear(stored, names, int8=int8)

            head = threads.submit(linear, "", stored.head)
            layers = [
                {name: threads.submit(linear, f"model.layers.{i}.", name) for name in _MERGED}
                for i in range(config["num_hidden_layers"])
            ]
            self._embeddings = stored.tensor("model.embed_tokens.weight").clone()
            self._norm = stored.tensor("model.norm.weight").float()
            self._layers = [
                _Layer(
                    norm=stored.tensor(f"model.layers.{i}.input_layernorm.weight").float(),
                    second_norm=stored.tensor(f"model.layers.{i}.post_attention_layernorm.weight").float(),
                    **{name: made.result() for name, made in layer.items()},
                )
                for i, layer in enumerate(layers)
            ]
            self._head = head.result()

    def __call__(self, ids: Tensor, first: int, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Logits (B, V) after the last of the tokens (B, T), whose first has the position `first`.

        `attend(layer, queries, keys, values)` gives (B, T, heads, size) from tensors of that shape with `groups` for
        `heads` in keys and values.
        """
        count, length = ids.shape
        angles = torch.outer(torch.arange(first, first + length, dtype=torch.float), self._frequencies)
        turn = torch.cat((angles, angles), -1)[:, None]
        cosines, sines = turn.cos(), turn.sin()
        sines[..., : self.size // 2].neg_()
        x = functional.embedding(ids, self._embeddings).float()
        for i, layer in enumerate(self._layers):
            heads = layer.qkv(self._normed(x, layer.norm)).view(count, length, -1, self.size)
            turned, values = torch.split(heads, [self.heads + self.groups, self.groups], 2)
            turned = turned * cosines + turned.roll(self.size // 2, -1) * sines
            queries, keys = torch.split(turned, [self.heads, self.groups], 2)
            x = x + layer.out(attend(i, queries, keys, values).reshape(count, length, -1))
            gate, up = layer.up(self._normed(x, layer.second_norm)).chunk(2, -1)
            x = x + layer.down(functional.silu(gate) * up)
        return self._head(self._normed(x[:, -1], self._norm))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._epsilon)


class SharedRows:
    """Completions of one prompt: its keys and values, and behind them those of each row, (B, groups, T, size)."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._prompt: list[tuple[Tensor, Tensor]] = []
        self._own: list[tuple[Tensor, Tensor]] = []
        self._count = self._length = self._read = 0

    def read(self, prompt: Tensor, count: int) -> Tensor:
        """Logits (count, V) of what follows the prompt (1, P)."""
        self._count, self._read = count, prompt.shape[1]

        def attend(_: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            queries, keys, values = (each.transpose(1, 2).contiguous() for each in (queries, keys, values))
            self._prompt.append((keys, values))
            grouped = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
            empty = keys.new_empty(count, *keys.shape[1:2], _ROOM, keys.shape[3])
            self._own.append((empty, empty.clone()))
            return grouped.transpose(1, 2)

        return self._model(prompt, 0, attend).expand(count, -1)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) of what follows one more token (B,) of each row."""
        if self._length == self._own[0][0].shape[2]:
            self._own = [tuple(functional.pad(x, (0, 0, 0, self._length)) for x in pair) for pair in self._own]  # type: ignore[misc]
        at, self._length = self._length, self._length + 1
        groups, size = self._model.groups, self._model.size
        scale = size**-0.5

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            (before, before_values), (own, own_values) = self._prompt[layer], self._own[layer]
            own[:, :, at], own_values[:, :, at] = keys[:, 0], values[:, 0]
            own, own_values = own[:, :, : at + 1], own_values[:, :, : at + 1]
            q = (queries * scale).view(self._count, groups, -1, size)
            over = q.shape[2]
            together = q.transpose(0, 1).reshape(groups, -1, size)  # all rows read the prompt at once
            of_prompt = (together @ before[0].mT).view(groups, self._count, over, -1).transpose(0, 1)
            weights = torch.cat((of_prompt, q @ own.mT), -1).softmax(-1)
            of_prompt, of_own = torch.split(weights, [self._read, at + 1], -1)
            from_prompt = of_prompt.transpose(0, 1).reshape(groups, -1, self._read) @ before_values[0]
            return from_prompt.view(groups, self._count, over, size).transpose(0, 1) + of_own @ own_values

        return self._model(tokens.unsqueeze(1), self._read + at, attend)

    def keep(self, rows: Tensor) -> None:
        """Leaves only these rows."""
        self._count = len(rows)
        self._own = [(keys[rows], values[rows]) for keys, values in self._own]


class _Stored:
    """The tensors of a file in either form."""

    def __init__(self, file: Any) -> None:
        self.names, self._file = set(file.keys()), file
        head = "lm_head"
        self.head = head if f"{head}.weight" in self.names else "model.embed_tokens"

    def tensor(self, name: str) -> Tensor:
        found: Tensor = self._file.get_tensor(name)
        return found

    def merged(self, prefix: str, name: str, what: str) -> Tensor | None:
        """The weights or biases of one of our matrices; None where it has none."""
        if f"{prefix}{name}.{what}" in self.names:
            return self.tensor(f"{prefix}{name}.{what}")
        parts = [f"{prefix}{part}.{what}" for part in _MERGED.get(name, ())]
        return torch.cat([self.tensor(part) for part in parts]) if self.names.issuperset(parts) and parts else None


def _linear(stored: _Stored, place: tuple[str, ...], *, int8: bool) -> Linear:
    prefix, name = place
    weight, bias = stored.merged(prefix, name, "weight"), stored.merged(prefix, name, "bias")
    if weight is None:
        raise KeyError(f"{prefix}{name}.weight")
    bias = None if bias is None else bias.float()
    if int8:
        scales = stored.merged(prefix, name, "scales")
        rounded, scales = rounded_to_int8(weight) if scales is None else (weight, scales)
        return Int8Linear(rounded, scales, bias)
    return functools.partial(functional.linear, weight=weight.float(), bias=bias)


def write_int8(checkpoint: Path, directory: Path) -> None:
    """The form with int8 weights of a checkpoint in bfloat16. Raises OSError where the directory cannot be written."""
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(checkpoint / _WEIGHTS, "pt") as file:
            stored = _Stored(file)
            layers = {name.split(".")[2] for name in stored.names if name.startswith("model.layers.")}
            places = [(f"model.layers.{i}.", name) for i in layers for name in _MERGED]
            for prefix, name in (*places, ("", "lm_head")):
                weight = stored.merged(prefix, stored.head if name == "lm_head" else name, "weight")
                if weight is None:
                    raise KeyError(f"{prefix}{name}.weight")
                tensors[f"{prefix}{name}.weight"], tensors[f"{prefix}{name}.scales"] = rounded_to_int8(weight)
                if (bias := stored.merged(prefix, name, "bias")) is not None:
                    tensors[f"{prefix}{name}.bias"] = bias
            kept = [name for name in stored.names if name.endswith(("norm.weight", "embed_tokens.weight"))]
            save_file(tensors | {name: stored.tensor(name) for name in kept}, directory / _WEIGHTS)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error
    for name in _BESIDE:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, directory / name)


class EmbeddedEngine(Engine):
    """Such a directory, with its tokenizer and chat template."""

    def __init__(self, directory: Path, *, int8: bool) -> None:
        super().__init__()
        self.name, self.device, self.dtype = str(directory), torch.device("cpu"), torch.float32
        self.model = Decoder(directory, int8=int8)
        self.context = self.model.context
        self.tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string((directory / "chat_template.jinja").read_text())
        self.has_chat_template = True
        facts = json.loads((directory / "tokenizer_config.json").read_bytes())
        ends = json.loads((directory / "generation_config.json").read_bytes())["eos_token_id"]
        end = self.tokenizer.token_to_id(facts["eos_token"])
        self.ends = {*(ends if isinstance(ends, list) else [ends]), *([] if end is None else [end])}

    def _rows(self) -> SharedRows:
        return SharedRows(self.model)

    def _encode(self, messages: list[dict[str, str]]) -> Tensor:
        text = self._template.render(messages=messages, add_generation_prompt=True)
        return torch.tensor([self.tokenizer.encode(text, add_special_tokens=False).ids])

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
