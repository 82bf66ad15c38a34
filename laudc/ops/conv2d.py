"""A convolution: the one family of work, static or gathered.

out[row, n] = act( gain[row] * ( sum_k pro(x[row_in(row, k), chan(k)]) * w[k, chan(n)] + bias[n] ) + residual[row, n] )

rows          compute only the output positions in the row list (others stay undefined)
samples       the rows operand is no row list but the layer masker's decisions, float32 (B, 1, 1), or with `listed` a
              sample list: all positions of the samples that are on; settled: which those are is known before the
              kernel ahead is done, and the residual is older than it
gathered      x is no map but the matrix [capacity, kh*kw*C] that `gather` made of the listed rows
compact       out is no map but the matrix [capacity, N], row i of it is row i of the list
residual      "dense": act(residual + conv) everywhere; "in_place": the residual's own buffer becomes the
              result, only the listed rows change
shortcut      C > 0: act(conv + a 1x1 convolution of a second map of C channels, with strides `shortcut_stride`); the
              bias is that of both
channels_in   G > 0: x is compact along its channels: column j of sample b is channel list_b[j // G]*G + j % G
channels_out  G > 0: out is made compact in the same way; columns past the sample's count are undefined
prologue      the pointwise function f of pro(x)[c] = f(scale[c] * x[c] + shift[c]), which is what the weights meet of
              x; "affine" leaves the scale and the shift; None: they meet x itself. Taps outside the image are zero
              all the same
tf32          products may be of numbers rounded to tf32, where x is float32 (`laudc/tf32.py`); the reference's are not
gain          a number for every row, float32 (B, 1, H, W), which its sum and bias are multiplied by; with no masker
sums          a second result, in place of the last operand: the channel sums of every sample (`_sums.py`), those of
              the rows that are computed added to what was there
running       M > 0: a second result, in place of the last operand: what every sample's map adds to the keep logits of
              the M layer maskers that may read it next (`_running.py`), as with sums
masker        one more output column, stored apart: the masker's keep logit of every pixel (needs one more
              row of weights); the second result, float32 (B, 1, H, W)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laudc.ops._lists import channels_of, rows_of, rows_of_samples, samples_of
from laudc.ops._pointwise import after_affine, pointwise
from laudc.ops._running import running_logits
from laudc.ops._sums import channel_sums
from laudc.ops.base import Call, Imports, Op, Operands, Spec
from laudc.types import TensorType


@dataclass(frozen=True, kw_only=True)
class Conv2dSpec(Spec):
    name = "conv2d"

    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """top, bottom, left, right"""
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = False
    activation: str = "none"
    rows: bool = False
    samples: bool = False
    listed: bool = False
    settled: bool = False
    gathered: bool = False
    compact: bool = False
    residual: str = "none"
    shortcut: int = 0
    shortcut_stride: tuple[int, int] = (1, 1)
    channels_in: int = 0
    channels_out: int = 0
    sums: bool = False
    running: int = 0
    masker: bool = False
    prologue: str | None = None
    gain: bool = False
    tf32: bool = False
    map_size: tuple[int, int] = (0, 0)
    """height and width of the result, where x is gathered and so cannot tell"""

    @property
    def operands(self) -> tuple[str, ...]:
        present = {
            "x": True,
            "rows": self.rows,
            "channels": self.channels_in > 0 or self.channels_out > 0,
            "gain": self.gain,
            "shortcut": self.shortcut > 0,
            "residual": self.residual != "none",
            "sums": self.sums,
            "running": self.running > 0,
        }
        return tuple(operand for operand, is_there in present.items() if is_there)

    @property
    def in_place(self) -> Mapping[str, int]:
        updated = {"residual": 0} if self.residual == "in_place" else {}
        return updated | ({"sums": 1} if self.sums else {}) | ({"running": 1} if self.running else {})

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def weights(self) -> Mapping[str, tuple[int, ...]]:
        columns = self.out_channels + self.masker
        shapes: dict[str, tuple[int, ...]] = {"weight": (columns, self.in_channels // self.groups, *self.kernel)}
        if self.shortcut:
            shapes["shortcut_weight"] = (columns, self.shortcut, 1, 1)
        if self.bias:
            shapes["bias"] = (columns,)
        if self.prologue is not None:
            shapes |= {"scale": (self.in_channels,), "shift": (self.in_channels,)}
        if self.running:
            shapes["running_scale"] = (self.running, self.out_channels)
        return shapes

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map it makes from one of that size."""
        top, bottom, left, right = self.padding
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        return (
            (height + top + bottom - reach[0]) // self.stride[0] + 1,
            (width + left + right - reach[1]) // self.stride[1] + 1,
        )

    def results(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        columns = self.in_channels * self.taps if self.gathered else self.in_channels
        if x.shape[1] != columns or self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"{self} does not read {x}")
        batch, height, width = self.out_map(operands)
        if min(height, width) < 1:
            raise ValueError(f"nothing of {x} is left after {self}")
        if self.shortcut:
            second = operands[self.operands.index("shortcut")]
            steps = zip(second.shape[2:], self.shortcut_stride, strict=True)
            if second.shape[:2] != (batch, self.shortcut) or (height, width) != tuple(-(-n // s) for n, s in steps):
                raise ValueError(f"{self} does not add {second}")
        if self.compact:
            return (TensorType(shape=(batch * height * width, self.out_channels), dtype=x.dtype),)
        out = TensorType(shape=(batch, self.out_channels, height, width), dtype=x.dtype)
        logits = TensorType(shape=(batch, 1, height, width), dtype="float32")
        sums = TensorType(shape=(batch, self.out_channels), dtype="int64")
        running = TensorType(shape=(batch, self.running), dtype="int64")
        beside = {logits: self.masker, sums: self.sums, running: self.running > 0}
        return (out, *(type_ for type_, is_there in beside.items() if is_there))

    def out_map(self, operands: Operands) -> tuple[int, int, int]:
        """Batch, height and width of the map whose positions are computed."""
        shape = operands[0].shape
        if self.gathered:
            height, width = self.map_size
            return (shape[0] // (height * width), height, width)
        return (shape[0], *self.out_size(shape[2], shape[3]))

    def macs(self, operands: Operands) -> int:
        columns = self.out_channels + self.masker
        products = self.in_channels // self.groups * self.taps + self.shortcut
        return math.prod(self.out_map(operands)) * columns * products


class Conv2d(Op):
    spec_type = Conv2dSpec
    spec: Conv2dSpec
    weight: Tensor
    shortcut_weight: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor
    running_scale: Tensor

    def forward(self, x: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        spec = self.spec
        named = dict(zip(spec.operands[1:], others, strict=True))
        if spec.prologue is not None:
            assert not any((spec.gathered, spec.channels_in, spec.masker)), spec
            x = pointwise(after_affine(spec.prologue), x * self.scale[:, None, None] + self.shift[:, None, None])
        if spec.masker:
            assert not spec.gain, spec
            out = self._dense(x, None)
            return pointwise(spec.activation, out[:, :-1]), out[:, -1:].float()
        if spec.rows:
            out = self._listed_rows(x, named)
        else:
            out = self._dense(x, named.get("channels"))
            if spec.gain:
                out = out * named["gain"].to(out.dtype)
            if spec.shortcut:
                out = out + F.conv2d(named["shortcut"], self.shortcut_weight, stride=spec.shortcut_stride)
            if spec.residual == "dense":
                out = out + named["residual"]
            out = pointwise(spec.activation, out)
        if spec.sums:
            return out, named["sums"] + channel_sums(self._computed(out, named))
        if spec.running:
            return out, named["running"] + running_logits(self._computed(out, named), self.running_scale)
        return out

    def _computed(self, out: Tensor, named: Mapping[str, Tensor]) -> Tensor:
        """The samples that are computed; zeros in place of the others."""
        if not self.spec.rows:
            return out
        assert self.spec.samples, self.spec
        on, made = samples_of(named["rows"]), torch.zeros_like(out)
        made[on] = out[on]
        return made

    def _dense(self, x: Tensor, channels: Tensor | None) -> Tensor:
        if channels is None:
            return self._conv(x, self.weight, self.bias if self.spec.bias else None, self.spec.groups)
        samples = [self._one_sample(x[b : b + 1], channels, b) for b in range(x.shape[0])]
        return torch.cat(samples)

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        top, bottom, left, right = self.spec.padding
        if top == bottom and left == right:
            return F.conv2d(x, weight, bias, self.spec.stride, (top, left), self.spec.dilation, groups)
        return F.conv2d(
            F.pad(x, (left, right, top, bottom)), weight, bias, self.spec.stride, 0, self.spec.dilation, groups
        )

    def _one_sample(self, x: Tensor, channels: Tensor, sample: int) -> Tensor:
        spec, weight = self.spec, self.weight
        bias = self.bias if spec.bias else None
        groups = spec.groups
        if spec.channels_out:
            kept = channels_of(channels, sample, spec.channels_out)
            weight, bias = weight[kept], None if bias is None else bias[kept]
        if spec.channels_in:
            kept = channels_of(channels, sample, spec.channels_in)
            x = x[:, : len(kept)]
            if groups == 1:
                weight = weight[:, kept]
            else:
                groups = len(kept) // (spec.in_channels // spec.groups)
        if weight.shape[0] == 0 or x.shape[1] == 0:
            size = spec.out_size(x.shape[2], x.shape[3])
            out = x.new_zeros(1, weight.shape[0], *size)
            out = out if bias is None else out + bias[:, None, None]
        else:
            out = self._conv(x, weight, bias, groups)
        missing = spec.out_channels - out.shape[1]
        return torch.cat([out, out.new_full((1, missing, *out.shape[2:]), torch.nan)], 1)

    def _listed_rows(self, x: Tensor, named: Mapping[str, Tensor]) -> Tensor:
        """Compute everything, keep what the list names: the rest is poisoned, so nobody can lean on it."""
        spec, row_list = self.spec, named["rows"]
        if spec.gathered:
            height, width = spec.map_size
            batch = x.shape[0] // (height * width)
            rows = rows_of(row_list, batch)
            fresh = self._product(x[: len(rows)])
        else:
            dense = self._dense(x, named.get("channels"))
            batch, _, height, width = dense.shape
            whole = spec.samples
            rows = rows_of_samples(samples_of(row_list), height * width) if whole else rows_of(row_list, batch)
            fresh = dense.permute(0, 2, 3, 1).reshape(-1, spec.out_channels)[rows]
        if spec.gain:
            fresh = fresh * named["gain"].reshape(-1, 1)[rows].to(fresh.dtype)
        made = fresh.new_full((batch * height * width, spec.out_channels), torch.nan)
        if spec.compact:
            made[: len(rows)] = pointwise(spec.activation, fresh)
            return made
        if spec.residual != "none":
            residual = named["residual"].permute(0, 2, 3, 1).reshape(-1, spec.out_channels)
            made = residual.clone() if spec.residual == "in_place" else pointwise(spec.activation, residual)
            fresh = fresh + residual[rows]
        made[rows] = pointwise(spec.activation, fresh)
        return made.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _product(self, x: Tensor) -> Tensor:
        """Gathered rows [n, taps*C] times the weights, group by group."""
        spec = self.spec
        by_group = x.view(len(x), spec.taps, spec.groups, spec.in_channels // spec.groups)
        weight = self.weight.flatten(2).unflatten(0, (spec.groups, -1))
        made = torch.einsum("ntgc,goct->ngo", by_group, weight).flatten(1)
        return made + self.bias if spec.bias else made


def _import_conv(call: Call) -> Op | None:
    module = cast(nn.Conv2d, call.module)
    if module.padding_mode != "zeros":
        return None
    spec = Conv2dSpec(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=_padding(module),
        dilation=(module.dilation[0], module.dilation[1]),
        groups=module.groups,
        bias=module.bias is not None,
    )
    op = Conv2d(spec)
    op.weight = module.weight
    if module.bias is not None:
        op.bias = module.bias
    return op


def _padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    if module.padding == "valid":
        return (0, 0, 0, 0)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2)
    vertical, horizontal = cast(tuple[int, int], module.padding)
    return (vertical, vertical, horizontal, horizontal)


OP = Conv2d
FROM_TORCH: Imports = {nn.Conv2d: _import_conv}
