"""A model's linear layers in int8 on an x86 CPU, by fbgemm's kernels, which PyTorch has built in.

A quarter of float32's bytes are read per token. Each row of weights has its own scale, and so has each row of
activations, which enter as a coarse and a fine part of 7 bits each: 14 bits, so only the weights are rounded. The sums
are of integers, so the result for a row does not depend on the other rows of the batch.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 63
"""Of a part of 7 bits, on each side of zero. fbgemm may sum two products in 16 bits: 7 by 8 bits never overflow."""


def available() -> bool:
    """Whether this PyTorch has the kernels: only x86 builds do, and a later release may drop them
    (https://github.com/pytorch/pytorch/issues/184982).
    """
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch.ops.quantized, "linear_prepack")


def rounded_to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as int8 and the scale of each row, float32."""
    weight = weight.detach().float()
    scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scales.unsqueeze(1)).round_().to(torch.int8), scales


@contextmanager
def packing() -> Iterator[None]:
    """Chooses fbgemm, for the whole process, and silences that a later release drops it; see `available`."""
    before = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


class Int8Linear(nn.Module):
    """What a linear layer computes, from (…, in) to (…, out), float32. Made inside `packing()`."""

    def __init__(self, rounded: Tensor, scales: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = rounded.shape
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
        zeros = torch.zeros(len(rounded), dtype=torch.long)
        quantised = torch._make_per_channel_quantized_tensor(rounded, scales.double(), zeros, 0)  # noqa: SLF001
        self._packed: Any = torch.ops.quantized.linear_prepack(quantised, None)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        count = len(rows)
        unit = torch.linalg.vector_norm(rows, torch.inf, 1, keepdim=True)
        unit.clamp_min_(torch.finfo(torch.float32).tiny).div_(_LEVELS)
        parts = rows.new_empty(2 * count, self.in_features)
        coarse, fine = parts[:count], parts[count:]
        torch.round(torch.div(rows, unit, out=fine), out=coarse)
        fine.sub_(coarse).mul_(2 * _LEVELS)
        sums = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(parts, 1.0, 64, self._packed)
        y: Tensor = torch.add(sums[:count], sums[count:], alpha=0.5 / _LEVELS).mul_(unit)
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], self.out_features)


def to_int8(model: nn.Module) -> None:
    """Replaces every linear layer by an `Int8Linear`, and converts the rest of the model to float32."""
    with packing():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, Int8Linear(*rounded_to_int8(child.weight), child.bias))
    model.float()
