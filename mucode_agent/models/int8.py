"""A model's linear layers in int8 on an x86 CPU, by fbgemm's kernels, which PyTorch has built in.

A quarter of float32's bytes are read per token. Each row of weights has its own scale, and so has each row of
activations, which enter as a coarse and a fine part of 7 bits each: 14 bits, so only the weights are rounded. The sums
are of integers, so the result for a row does not depend on the other rows of the batch.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

_LEVELS = 63
"""Of a part of 7 bits, on each side of zero. fbgemm may sum two products in 16 bits: 7 by 8 bits never overflow."""


def available() -> bool:
    """Whether this PyTorch has the kernels: only x86 builds do, and a later release may drop them
    (https://github.com/pytorch/pytorch/issues/184982).
    """
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch, "quantize_per_channel")


class Int8Linear(nn.Module):
    """What an `nn.Linear` computes, from (…, in) to (…, out), float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)  # of another dtype the same call means another scheme
        with warnings.catch_warnings():  # that a later release drops it, see `available`
            warnings.simplefilter("ignore", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self.out_features, self.in_features = weight.shape
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().float(), requires_grad=False)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self._packed: Any = torch.ops.quantized.linear_prepack(rounded, None)
        finally:
            torch.backends.quantized.engine = before

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        unit = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _LEVELS
        scaled = rows / unit
        coarse = scaled.round()
        parts = torch.cat((coarse, (scaled - coarse) * (2 * _LEVELS)))
        sums = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(parts, 1.0, 64, self._packed)
        count = len(rows)
        y: Tensor = torch.add(sums[:count], sums[count:], alpha=0.5 / _LEVELS).mul_(unit)
        if self.bias is not None:
            y += self.bias
        return y.view(*x.shape[:-1], self.out_features)


def to_int8(model: nn.Module) -> None:
    """Replaces every linear layer by an `Int8Linear`, and converts the rest of the model to float32."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, Int8Linear(child))
    model.float()
