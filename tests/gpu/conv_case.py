"""A convolution or a linear layer to test kernels with: a spec at the size of the map that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.deciding_conv2d import DecidingConv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules.base import Work
from laudc.types import TensorType, in_memory

AROUND = (1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A spec at the size of the map it reads."""

    name: str
    spec: Conv2dSpec | LinearSpec
    size: tuple[int, int] = (7, 9)

    def work(self, batch: int, dtype: str) -> Work:
        spec = replace(self.spec, tf32=dtype == "tf32")
        operands = tuple(self._operand(name, batch, in_memory(dtype)) for name in self.spec.operands)
        return Work(spec=spec, operands=operands, results=spec.results(operands))

    @property
    def out_size(self) -> tuple[int, int]:
        assert isinstance(self.spec, Conv2dSpec)
        return self.spec.map_size if self.spec.gathered else self.spec.out_size(*self.size)

    @property
    def decisions(self) -> int:
        assert isinstance(self.spec, Conv2dSpec)
        spec = self.spec
        inner, unit = (
            (spec.in_channels, spec.channels_in) if spec.channels_in else (spec.out_channels, spec.channels_out)
        )
        return inner // unit

    def _operand(self, name: str, batch: int, dtype: str) -> TensorType:
        if isinstance(self.spec, LinearSpec):
            return TensorType(shape=(batch, self.spec.in_features), dtype=dtype)
        spec, (height, width) = self.spec, self.out_size
        rows = batch * height * width
        match name:
            case "x" if spec.gathered:
                return TensorType(shape=(rows, spec.in_channels * spec.taps), dtype=dtype)
            case "x":
                return TensorType(shape=(batch, spec.in_channels, *self.size), dtype=dtype)
            case "rows" if isinstance(spec, DecidingConv2dSpec):
                return TensorType(shape=(batch, spec.maskers), dtype="int64")
            case "rows" if spec.listed:
                return TensorType(shape=(batch + 1,), dtype="int32")
            case "rows" if spec.samples:
                return TensorType(shape=(batch, 1, 1), dtype="float32")
            case "sums":
                return TensorType(shape=(batch, spec.out_channels), dtype="int64")
            case "running":
                return TensorType(shape=(batch, spec.running), dtype="int64")
            case "rows":
                return TensorType(shape=(batch + 1 + rows,), dtype="int32")
            case "shortcut":
                down, right = spec.shortcut_stride
                return TensorType(shape=(batch, spec.shortcut, height * down - down + 1, width * right), dtype=dtype)
            case "gain":
                return TensorType(shape=(batch, 1, height, width), dtype="float32")
            case "channels":
                return TensorType(shape=(batch, 1 + self.decisions), dtype="int32")
            case _:
                return TensorType(shape=(batch, spec.out_channels, height, width), dtype=dtype)


def conv(name: str, *, size: tuple[int, int] = (7, 9), kind: type[Conv2dSpec] = Conv2dSpec, **fields: Any) -> Case:
    spec = kind(**fields)
    return Case(name=name, spec=replace(spec, map_size=spec.out_size(*size)) if spec.gathered else spec, size=size)


THREE = {"kernel": (3, 3), "padding": AROUND}
LISTED = {"rows": True, "bias": True, "activation": "relu"}
WHOLE = {**LISTED, "samples": True}
LISTED_WHOLE = {**WHOLE, "listed": True}
DECIDING = {**WHOLE, "kind": DecidingConv2dSpec}
HALVED = {"shortcut_stride": (2, 2)}
