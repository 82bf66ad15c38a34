"""Batch normalization, with its running statistics alive: they move in training, whatever mode it was read in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class BatchNormSpec(Spec):
    name = "batch_norm"

    channels: int
    eps: float = 1e-5
    momentum: float | None = 0.1
    """None: a cumulative mean, as in torch."""
    affine: bool = True

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (self.channels,), "bias": (self.channels,)} if self.affine else {}

    def buffers(self) -> Mapping[str, tuple[int, ...]]:
        return {"running_mean": (self.channels,), "running_var": (self.channels,), "num_batches_tracked": ()}

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].shape[1] != self.channels:
            raise ValueError(f"{self} does not read {operands[0]}")
        return operands


class BatchNorm(Op):
    spec_type = BatchNormSpec
    spec: BatchNormSpec
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        momentum = self.spec.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        weight, bias = (self.weight, self.bias) if self.spec.affine else (None, None)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(x, mean, variance, weight, bias, self.training, momentum or 0.0, self.spec.eps)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map it is in evaluation: x * scale + shift, one number a channel, float64."""
        scale = torch.rsqrt(self.running_var.double() + self.spec.eps)
        shift = -self.running_mean.double() * scale
        if self.spec.affine:
            scale, shift = scale * self.weight.double(), shift * self.weight.double() + self.bias.double()
        return scale, shift


def import_batch_norm(call: Call) -> Op | None:
    """A torch BatchNorm2d that keeps running statistics; its tensors are shared."""
    module = cast(nn.BatchNorm2d, call.module)
    if not module.track_running_stats:
        return None
    spec = BatchNormSpec(channels=module.num_features, eps=module.eps, momentum=module.momentum, affine=module.affine)
    op = BatchNorm(spec)
    if module.affine:
        op.weight, op.bias = module.weight, module.bias
    for name in spec.buffers():
        op.register_buffer(name, getattr(module, name))
    return op


OP = BatchNorm
FROM_TORCH: Imports = {nn.BatchNorm2d: import_batch_norm}
