"""A stem: a convolution whose map only a max pooling reads.

    out = maxpool( act( conv(x) + bias ) )

The map between is never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from laudc.ops._pointwise import pointwise
from laudc.ops.base import Op, Operands, Spec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.max_pool import MaxPoolSpec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class ConvMaxPoolSpec(Spec):
    name = "conv_max_pool"

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, bottom, left, right; zeros"""
    bias: bool = False
    activation: str = "none"
    pool_kernel: tuple[int, int]
    pool_stride: tuple[int, int]
    pool_padding: tuple[int, int]

    @property
    def conv(self) -> Conv2dSpec:
        return Conv2dSpec(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            bias=self.bias,
            activation=self.activation,
        )

    @property
    def pool(self) -> MaxPoolSpec:
        return MaxPoolSpec(kernel=self.pool_kernel, stride=self.pool_stride, padding=self.pool_padding)

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        return self.conv.weights()

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        return self.pool.results(self.conv.results(operands))

    def macs(self, operands: Operands) -> int:
        return self.conv.macs(operands)


class ConvMaxPool(Op):
    spec_type = ConvMaxPoolSpec
    spec: ConvMaxPoolSpec
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        spec = self.spec
        top, bottom, left, right = spec.padding
        padded = F.pad(x, (left, right, top, bottom))
        made = F.conv2d(padded, self.weight, self.bias if spec.bias else None, spec.stride)
        return F.max_pool2d(pointwise(spec.activation, made), spec.pool_kernel, spec.pool_stride, spec.pool_padding)


OP = ConvMaxPool
