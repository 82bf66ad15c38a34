"""Stems on Hopper (sm_90a): a convolution of an image of 8 channels with the 3x3 max pooling behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from laudc.ops._pointwise import POINTWISE
from laudc.ops.conv_max_pool import ConvMaxPoolSpec
from laudc.schedules._cuda_stem_tile import PANEL, PIXEL, THREADS, Stem
from laudc.schedules._demand import Active, Demand
from laudc.schedules.base import Choice, Lowered, Schedule, Work

if TYPE_CHECKING:
    from laudc.targets import Target

_WIDEST = 256
"""Pixels that one instruction takes."""
_ROWS = (2, 1, 4)
"""Of the result, that a block makes; the first is the fastest where there are many blocks."""


class ConvMaxPoolWgmma(Schedule):
    ops = frozenset({"conv_max_pool"})
    kind = "cuda"

    def refuse(self, work: Work, target: Target) -> str | None:
        spec = work.spec
        assert isinstance(spec, ConvMaxPoolSpec), spec
        if target.arch != "sm_90a":
            return f"wgmma is an instruction of sm_90a, not of {target.arch}"
        if work.dtype != "float16":
            return f"tensor cores take float16 here, not {work.dtype}"
        if spec.in_channels != PIXEL or spec.out_channels % PANEL or spec.kernel[1] % 2 or spec.stride[1] != 1:
            return f"it reads {PIXEL} channels a pixel, pixels by twos, and makes {PANEL} channels at a time"
        if any(spec.padding):
            return "it reads an image that has its padding already"
        if (spec.pool_kernel, spec.pool_stride, spec.pool_padding) != ((3, 3), (2, 2), (1, 1)):
            return "it pools windows of 3x3 two apart, with a border of one"
        if spec.activation not in POINTWISE:
            return f"no kernel knows the pointwise function {spec.activation!r}"
        width = spec.conv.out_size(*work.operands[0].shape[2:])[1]
        if width % 8 or width > _WIDEST:
            return f"a row of the map is 8 pixels and more at a time, at most {_WIDEST}, not {width}"
        return None if self.choices(work, target) else "a row's window does not fit into shared memory"

    def choices(self, work: Work, target: Target) -> tuple[Choice, ...]:
        room = target.shared_memory_per_block_kib * 1024
        return tuple({"rows": rows} for rows in _ROWS if self._stem(work, {"rows": rows}).shared_bytes <= room)

    def demand(self, work: Work, target: Target, choice: Choice, active: Active) -> tuple[Demand, ...]:
        stem, (x,), (out,) = self._stem(work, choice), work.operands, work.results
        blocks = x.shape[0] * math.ceil(stem.out_height / stem.rows) * (stem.channels // PANEL)
        map_rows = 2 * stem.rows + 1
        return (
            Demand(
                unit="tensor_fp16",
                tasks=blocks,
                macs=map_rows * stem.map_width * PANEL * 16 * stem.pairs,
                l2_bytes=2 * (stem.image_elements + stem.weight_elements),
                chain=map_rows,
                alternating=True,
                finish_bytes=4 * stem.rows * stem.out_width * PANEL,
                threads=THREADS,
                shared_bytes=stem.shared_bytes,
                read_bytes=x.nbytes,
                written_bytes=out.nbytes,
                weight_bytes=2 * stem.weight_elements * (stem.channels // PANEL),
            ),
        )

    def build(self, work: Work, target: Target, choice: Choice) -> Lowered:
        from laudc.schedules._cuda_stem import stem_module

        return Lowered(module=stem_module(self._stem(work, choice)), pipeline="tirx")

    def pack(self, work: Work, choice: Choice, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """(panels, elements): pair of taps, half of it, 8 channels of the result, each a core matrix of 8 x 8."""
        weight = weights["weight"].half()
        channels, _, *kernel = weight.shape
        taps = weight.permute(0, 2, 3, 1).reshape(channels // PANEL, PANEL // 8, 8, math.prod(kernel), PIXEL)
        packed = taps.permute(0, 3, 1, 2, 4).reshape(channels // PANEL, -1).contiguous()
        bias = weights["bias"].float() if "bias" in weights else weight.new_zeros(channels).float()
        return (packed, bias)

    def _stem(self, work: Work, choice: Choice) -> Stem:
        spec = work.spec
        assert isinstance(spec, ConvMaxPoolSpec), spec
        _, _, height, width = work.operands[0].shape
        map_height, map_width = spec.conv.out_size(height, width)
        return Stem(
            height=height,
            width=width,
            map_height=map_height,
            map_width=map_width,
            out_height=work.results[0].shape[2],
            channels=spec.out_channels,
            kernel=spec.kernel,
            down=spec.stride[0],
            activation=spec.activation,
            rows=choice["rows"],
        )


SCHEDULE = ConvMaxPoolWgmma()
