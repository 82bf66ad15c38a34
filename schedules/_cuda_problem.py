"""A convolution in the numbers a CUDA kernel bakes.

    Conv2dSpec  (B, C, H, W)      one row of work an output pixel
    Conv2dSpec, gathered          a 1x1 over the matrix that the list's rows were copied to
                with groups       a 1 x taps over the same matrix: every tap is a pixel
    LinearSpec  (B, ..., K)       a 1x1 over a map one pixel wide

The batch alone stays symbolic: it is read from the first argument.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from laudc.ops._pointwise import POINTWISE
from laudc.ops.base import Spec
from laudc.ops.conv2d import Conv2dSpec
from laudc.ops.deciding_conv2d import DecidingConv2dSpec
from laudc.ops.linear import LinearSpec
from laudc.schedules._prologue import refuse_prologue
from laudc.schedules.base import Work
from laudc.types import DTYPE_BYTES, FLOATS


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What a kernel is made for. Sizes are of one sample, in elements and pixels."""

    dtype: str
    tf32: bool
    """Whether products may be of float32 numbers rounded to tf32."""
    batch: int
    """Of the work that was asked: tiles are chosen for it, the kernel takes any."""
    x_dims: tuple[int, ...]
    """x without its leading size, as it lies in memory."""
    out_dims: tuple[int, ...]
    height: int
    width: int
    channels: int
    """How many elements lie between two pixels of x."""
    out_height: int
    out_width: int
    columns: int
    """How many elements lie between two rows of the result."""
    kernel: tuple[int, int]
    stride: tuple[int, int]
    top_left: tuple[int, int]
    padded: bool
    """Whether a tap can fall outside the image."""
    dilation: tuple[int, int]
    groups: int
    bias: bool
    activation: str
    rows: bool
    samples: bool
    listed: bool
    deciding: int
    """Of how many running logits one decides on samples; 0: they are known."""
    settled: bool
    gathered: bool
    compact: bool
    residual: str
    shortcut: int
    """Channels of a second map, whose 1x1 convolution is added; 0 without one."""
    shortcut_dims: tuple[int, int]
    shortcut_stride: tuple[int, int]
    channels_in: int
    channels_out: int
    decisions: int
    """How many channel groups one sample's list can name; 0 without lists."""
    sums: bool
    running: int
    """Layer maskers that it adds up the keep logits of; 0: none."""
    masker: bool
    prologue: str | None
    gain: bool

    @property
    def piece(self) -> int:
        """Numbers of one 16-byte copy."""
        return 16 // DTYPE_BYTES[self.dtype]

    @property
    def step(self) -> int:
        """Channels of one step on tensor cores: 128 bytes."""
        return 8 * self.piece

    @property
    def pixels(self) -> int:
        """Rows of work in one sample."""
        return self.out_height * self.out_width

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def group_columns(self) -> int:
        return self.columns // self.groups

    @property
    def lined(self) -> bool:
        """Whether something is added up over its finished rows, sample by sample."""
        return self.sums or self.running > 0

    @property
    def narrow(self) -> bool:
        """Whether a row of the window is a short run of memory: one 16-byte piece a pixel, one pixel beside the
        other."""
        plain = not self.padded and not self.gathered and self.groups == 1 and self.dilation == (1, 1)
        return plain and self.channels == self.piece and self.taps > 1

    @property
    def depth(self) -> int:
        """Products in one sum."""
        return self.taps * self.group_channels + self.shortcut

    @property
    def weight_rows(self) -> int:
        """Columns of the result and the masker's."""
        return self.columns + self.masker

    @property
    def capacity(self) -> int:
        """Rows of work in the whole batch when nothing is skipped."""
        return self.batch * self.pixels

    @property
    def per_sample(self) -> bool:
        """Whether a tile must stay within one sample, because the channels differ from sample to sample."""
        return self.decisions > 0


def problem_of(work: Work) -> Problem:
    """The numbers of a work that `meaningless` has nothing against."""
    if isinstance(work.spec, LinearSpec):
        return _linear(work, work.spec)
    assert isinstance(work.spec, Conv2dSpec), work.spec
    return _conv2d(work, work.spec)


def _linear(work: Work, spec: LinearSpec) -> Problem:
    lead, *middle, depth = work.operands[0].shape
    return Problem(
        dtype=work.dtype,
        tf32=spec.tf32,
        batch=lead,
        x_dims=(*middle, depth),
        out_dims=(*middle, spec.out_features),
        height=math.prod(middle),
        width=1,
        channels=depth,
        out_height=math.prod(middle),
        out_width=1,
        columns=spec.out_features,
        kernel=(1, 1),
        stride=(1, 1),
        top_left=(0, 0),
        padded=False,
        dilation=(1, 1),
        groups=1,
        bias=spec.bias,
        activation=spec.activation,
        rows=False,
        samples=False,
        listed=False,
        deciding=0,
        settled=False,
        gathered=False,
        compact=False,
        residual="none",
        shortcut=0,
        shortcut_dims=(0, 0),
        shortcut_stride=(1, 1),
        channels_in=0,
        channels_out=0,
        decisions=0,
        sums=False,
        running=0,
        masker=False,
        prologue=None,
        gain=False,
    )


def _conv2d(work: Work, spec: Conv2dSpec) -> Problem:
    batch, out_height, out_width = spec.out_map(work.operands)
    gathered = spec.gathered
    # What gather copied of a row is one pixel, or with groups a pixel a tap, side by side.
    kernel = (1, 1 if spec.groups == 1 else spec.taps) if gathered else spec.kernel
    channels = spec.in_channels * spec.taps // math.prod(kernel)
    height, width = (out_height, out_width * kernel[1]) if gathered else work.operands[0].shape[2:]
    decisions = work.operands[spec.operands.index("channels")].shape[1] - 1 if "channels" in spec.operands else 0
    return Problem(
        dtype=work.dtype,
        tf32=spec.tf32,
        batch=batch,
        x_dims=work.operands[0].shape[1:] if gathered else (height, width, channels),
        out_dims=(spec.out_channels,) if spec.compact else (out_height, out_width, spec.out_channels),
        height=height,
        width=width,
        channels=channels,
        out_height=out_height,
        out_width=out_width,
        columns=spec.out_channels,
        kernel=kernel,
        stride=(1, 1) if gathered else spec.stride,
        top_left=(0, 0) if gathered else (spec.padding[0], spec.padding[2]),
        padded=not gathered and any(spec.padding),
        dilation=(1, 1) if gathered else spec.dilation,
        groups=spec.groups,
        bias=spec.bias,
        activation=spec.activation,
        rows=spec.rows,
        samples=spec.samples,
        listed=spec.listed,
        deciding=spec.maskers if isinstance(spec, DecidingConv2dSpec) else 0,
        settled=spec.settled,
        gathered=gathered,
        compact=spec.compact,
        residual=spec.residual,
        shortcut=spec.shortcut,
        shortcut_dims=_size_of(work, spec, "shortcut") if spec.shortcut else (0, 0),
        shortcut_stride=spec.shortcut_stride,
        channels_in=spec.channels_in,
        channels_out=spec.channels_out,
        decisions=decisions,
        sums=spec.sums,
        running=spec.running,
        masker=spec.masker,
        prologue=spec.prologue,
        gain=spec.gain,
    )


def _size_of(work: Work, spec: Conv2dSpec, operand: str) -> tuple[int, int]:
    height, width = work.operands[spec.operands.index(operand)].shape[2:]
    return (height, width)


def meaningless(work: Work) -> str | None:
    """Why no CUDA kernel can do this: an unknown type, or fields of the spec that contradict each other."""
    if work.dtype not in FLOATS:
        return f"CUDA kernels compute in {', '.join(FLOATS)}, not in {work.dtype}"
    spec = work.spec
    if not isinstance(spec, Conv2dSpec | LinearSpec):
        return f"this is for conv2d and linear, not for {spec.name}"
    if spec.activation not in POINTWISE:
        return f"no kernel knows the pointwise function {spec.activation!r}"
    if spec.tf32 and work.dtype != "float32":
        return f"tf32 is a way to multiply float32, not {work.dtype}"
    return _contradiction(spec) if isinstance(spec, Conv2dSpec) else None


def _contradiction(spec: Conv2dSpec) -> str | None:
    channel_lists = spec.channels_in > 0 or spec.channels_out > 0
    if (spec.gathered or spec.compact) and not spec.rows:
        return "a gathered or compact matrix needs a row list"
    if spec.samples and (not spec.rows or spec.gathered or spec.compact):
        return "decisions on whole samples take the place of a row list, over maps"
    if spec.listed and not spec.samples:
        return "a list of samples is for a convolution on whole samples"
    if spec.sums and (spec.compact or spec.channels_out or spec.masker or (spec.rows and not spec.samples)):
        return "channel sums are of maps of whole samples, of all their channels"
    if spec.running and (spec.sums or spec.compact or channel_lists or spec.masker or (spec.rows and not spec.samples)):
        return "running logits are of maps of whole samples, of all their channels, and in place of sums"
    if spec.gathered and channel_lists:
        return "a gathered matrix has no channel lists"
    if spec.masker and (spec.rows or channel_lists or spec.groups != 1 or spec.residual != "none" or spec.gain):
        return "a masker's column goes with a plain convolution only"
    if spec.residual == "in_place" and (not spec.rows or spec.compact):
        return "a residual is updated in place at listed rows of a map only"
    if spec.residual == "dense" and spec.rows:
        return "a residual that is added everywhere does not go with a row list"
    if spec.shortcut and (spec.rows or channel_lists or spec.residual != "none" or spec.masker or spec.gain):
        return "a shortcut's convolution is added to a plain convolution only"
    if spec.groups > 1 and channel_lists and not _whole_groups(spec):
        return "channel lists of a grouped convolution must name whole groups, the same on both sides"
    return refuse_prologue(spec)


def _whole_groups(spec: Conv2dSpec) -> bool:
    """Whether every listed unit holds as many whole groups on the way in as on the way out."""
    if not spec.channels_in or not spec.channels_out:
        return False
    wide_in, rest_in = divmod(spec.channels_in, spec.in_channels // spec.groups)
    wide_out, rest_out = divmod(spec.channels_out, spec.out_channels // spec.groups)
    return wide_in == wide_out and rest_in == rest_out == 0


def matrix_of(spec: Spec, weights: Mapping[str, Tensor]) -> Tensor:
    """The weights as [columns, depth]: row n is what makes column n, tap by tap the channels of a group, then those of
    the shortcut."""
    weight = weights["weight"]
    if isinstance(spec, LinearSpec):
        return weight
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    return torch.cat([matrix, weights["shortcut_weight"].flatten(1)], 1) if "shortcut_weight" in weights else matrix
