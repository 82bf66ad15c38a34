"""The depthwise kernel as a TensorIR function.

parallel for each part of the rows (of a sample, where it has a list of channels):
    for each run of neighbouring pixels, or pixel:
        for each vector of channels:
            for each kernel row inside the image:  sums of the run += x vectors, each loaded once, * weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from laudc.ops._pointwise import after_affine
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules._cpu_arguments import ALIGN
from laudc.schedules._cpu_vectors import branch, each_piece, on_stack, opaque, ramp, vector, zeros
from laudc.schedules._pointwise import pointwise
from laudc.schedules.base import Choice, Work

if TYPE_CHECKING:
    from tvm.tirx import Buffer, Expr


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kernel:
    """Sizes and buffers, each buffer None where the spec has no such thing."""

    spec: Conv2dSpec
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    lanes: int
    run: int
    parts: int
    batch: Expr
    x: Buffer
    out: Buffer
    weight: Buffer
    bias: Buffer
    rows: Buffer
    channels: Buffer
    residual: Buffer
    prologue: Buffer
    copied: Buffer

    @property
    def pixels(self) -> int:
        return self.out_size[0] * self.out_size[1]

    def position(self, index: Expr) -> Expr:
        """The output pixel that is the index-th of those computed."""
        return self.rows[self.batch + 1 + index] if self.rows is not None else index

    def taken_x(self, pixel: Expr, channel: Expr | int, width: int) -> Expr:
        """Neighbouring channels of a pixel, through the prologue."""
        value, prologue = self.x.vload([pixel, channel], vector(width)), self.spec.prologue
        if prologue is None:
            return value
        scale, shift = (self.prologue.vload([i, channel], vector(width)) for i in range(2))
        taken = on_stack(width)
        T.buffer_store(taken, value * scale + shift, [ramp(0, width)])
        _activate(taken, after_affine(prologue))
        return taken.vload([0], vector(width))

    def taken_weight(self, tap: Expr | int, channel: Expr, width: int) -> Expr:
        weight = self.weight if self.copied is None else self.copied
        return weight.vload([tap, channel], vector(width))

    def taken_bias(self, channel: Expr, width: int) -> Expr:
        if self.bias is None:
            return zeros(width)
        if self.copied is not None:
            return self.copied.vload([self.spec.taps, channel], vector(width))
        return self.bias.vload([channel], vector(width))


def build_module(work: Work, choice: Choice) -> IRModule:
    """The module with the one function, `kernel`."""
    with IRBuilder() as ib:
        with T.prim_func():
            T.func_name("kernel")
            T.func_attr({"tirx.noalias": True, "global_symbol": "kernel"})
            k = _declare(work, choice)
            if k.channels is None:
                count = k.rows[k.batch] if k.rows is not None else k.batch * k.pixels
                _emit_rows(k, 0, opaque(count), k.spec.out_channels)
            else:
                with T.serial(k.batch) as sample:
                    _emit_sample(k, sample)
        function = ib.get()
    return IRModule({"kernel": function})


def _declare(work: Work, choice: Choice) -> _Kernel:
    spec = work.spec
    assert isinstance(spec, Conv2dSpec), spec
    channels = spec.out_channels
    in_size, out_size = work.operands[0].shape[2:], work.results[0].shape[2:]
    batch, list_size = T.int32(), T.int32()

    def argument(name: str, wanted: bool, shape: tuple[Expr | int, ...], dtype: str = "float32") -> Buffer:
        return T.match_buffer(T.arg(name, T.handle()), shape, dtype, align=ALIGN) if wanted else None

    def matrix(buffer: Buffer, size: tuple[int, ...]) -> Buffer:
        if buffer is None:
            return None
        return T.decl_buffer((batch * size[0] * size[1], channels), "float32", data=buffer.data, align=ALIGN)

    x = argument("x", True, (batch, *in_size, channels))
    rows = argument("rows", spec.rows, (list_size,), "int32")
    decisions = channels // spec.channels_in if spec.channels_in else 0
    listed = argument("channels", decisions > 0, (batch, 1 + decisions), "int32")
    residual = argument("residual", spec.residual == "dense", (batch, *out_size, channels))
    weight = argument("weight", True, (spec.taps, channels))
    bias = argument("bias", spec.bias, (channels,))
    prologue = argument("prologue", spec.prologue is not None, (2, channels))
    copied = argument("copied", decisions > 0, (spec.taps + spec.bias, channels))
    out = argument("out", True, (batch, *out_size, channels))
    return _Kernel(
        spec=spec,
        in_size=(in_size[0], in_size[1]),
        out_size=(out_size[0], out_size[1]),
        lanes=choice["lanes"],
        run=choice["run"],
        parts=choice["parts"],
        batch=batch,
        x=matrix(x, in_size),
        out=matrix(out, out_size),
        weight=weight,
        bias=bias,
        rows=rows,
        channels=listed,
        residual=matrix(residual, out_size),
        prologue=prologue,
        copied=copied,
    )


def _emit_sample(k: _Kernel, sample: Expr) -> None:
    """Copy the weights of the listed channels side by side, then compute the sample's rows."""
    group, taps = k.spec.channels_in, k.spec.taps
    kept = T.bind(k.channels[sample, 0])
    with T.serial(kept) as g, T.serial(group) as i:
        channel = T.bind(k.channels[sample, 1 + g] * group + i)
        with T.serial(taps) as tap:
            T.buffer_store(k.copied, k.weight[tap, channel], [tap, g * group + i])
        if k.bias is not None:
            T.buffer_store(k.copied, k.bias[channel], [taps, g * group + i])
    begin = opaque(k.rows[sample] if k.rows is not None else sample * k.pixels)
    end = k.rows[sample + 1] if k.rows is not None else begin + k.pixels
    _emit_rows(k, begin, opaque(end - begin), opaque(kept * group))


def _emit_rows(k: _Kernel, begin: Expr | int, count: Expr, channels: Expr | int) -> None:
    with T.parallel(k.parts) as part:
        share = T.bind(T.ceildiv(count, k.parts))
        at = on_stack(1, "int32")
        T.buffer_store(at, begin + T.min(part * share, count), [0])
        end = opaque(begin + T.min((part + 1) * share, count))
        with T.While(at[0] < end):
            first = opaque(k.position(at[0]))
            sample, pixel = T.bind(T.truncdiv(first, k.pixels)), T.bind(T.truncmod(first, k.pixels))
            i, j = opaque(T.truncdiv(pixel, k.out_size[1])), opaque(T.truncmod(pixel, k.out_size[1]))
            here = (sample, i, j)
            last = T.bind(T.min(at[0] + k.run - 1, end - 1))
            is_run = tirx.all(at[0] + k.run <= end, j + k.run <= k.out_size[1], k.position(last) == first + (k.run - 1))
            step = opaque(tirx.Select(is_run, k.run, 1))
            emit = partial(_emit_channels, k, first, here, channels)
            branch(
                is_run,
                lambda: branch(
                    _misses_no_tap(k, j), lambda: emit(k.run, guarded=False), lambda: emit(k.run, guarded=True)
                ),
                lambda: emit(1, guarded=True),
            )
            T.buffer_store(at, at[0] + step, [0])


def _misses_no_tap(k: _Kernel, j: Expr) -> Expr:
    """Whether all columns a run reads lie in the image."""
    spec = k.spec
    left = j * spec.stride[1] - spec.padding[2]
    reach = (k.run - 1) * spec.stride[1] + (spec.kernel[1] - 1) * spec.dilation[1]
    return tirx.all(left >= 0, left + reach < k.in_size[1])


def _emit_channels(
    k: _Kernel, first: Expr, here: tuple[Expr, Expr, Expr], channels: Expr | int, run: int, *, guarded: bool
) -> None:
    each_piece(
        k.lanes, channels, lambda channel, width: _emit_tile(k, first, here, run, channel, width, guarded=guarded)
    )


def _emit_tile(
    k: _Kernel,
    first: Expr,
    here: tuple[Expr, Expr, Expr],
    run: int,
    channel: Expr | int,
    width: int,
    *,
    guarded: bool,
) -> None:
    spec, kind = k.spec, vector(width)
    sample, i, j = here
    residual = {"none": None, "dense": k.residual, "in_place": k.out}[spec.residual]
    sums = [on_stack(width) for _ in range(run)]
    for t, total in enumerate(sums):
        start = k.taken_bias(channel, width)
        if residual is not None:
            start = start + residual.vload([first + t, channel], kind)
        T.buffer_store(total, start, [ramp(0, width)])
    top = T.bind(i * spec.stride[0] - spec.padding[0])
    left = T.bind(j * spec.stride[1] - spec.padding[2])
    with T.serial(spec.kernel[0]) as r:
        line = T.bind(top + r * spec.dilation[0])
        with T.If(tirx.all(line >= 0, line < k.in_size[0])), T.Then():
            row = T.bind((sample * k.in_size[0] + line) * k.in_size[1] + left)
            weights = [T.bind(k.taken_weight(r * spec.kernel[1] + s, channel, width)) for s in range(spec.kernel[1])]
            _emit_line(k, sums, weights, lambda column: k.taken_x(row + column, channel, width), left, guarded)
    for t, total in enumerate(sums):
        _activate(total, spec.activation)
        T.buffer_store(k.out, total.vload([0], kind), [first + t, ramp(channel, width)])


def _activate(values: Buffer, function: str) -> None:
    if int(values.shape[0]) > 1:
        with T.vectorized(int(values.shape[0])) as lane:
            T.buffer_store(values, pointwise(function, values[lane], "cpu"), [lane])
    else:
        T.buffer_store(values, pointwise(function, values[0], "cpu"), [0])


def _emit_line(
    k: _Kernel, sums: list[Buffer], weights: list[Expr], x: Callable[[int], Expr], left: Expr, guarded: bool
) -> None:
    """One kernel row: every x that any of the run needs is loaded once."""
    spec = k.spec
    uses: dict[int, list[tuple[Buffer, Expr]]] = {}
    for t, total in enumerate(sums):
        for s, weight in enumerate(weights):
            uses.setdefault(t * spec.stride[1] + s * spec.dilation[1], []).append((total, weight))

    def add(column: int) -> None:
        value = T.bind(x(column))
        for total, weight in uses[column]:
            lanes = int(total.shape[0])
            T.buffer_store(total, T.fma(value, weight, total.vload([0], vector(lanes))), [ramp(0, lanes)])

    for column in sorted(uses):
        if guarded:
            with T.If(tirx.all(left + column >= 0, left + column < k.in_size[1])), T.Then():
                add(column)
        else:
            add(column)
