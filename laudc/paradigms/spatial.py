"""Spatially adaptive computation: each patch of S x S output pixels is computed or left (LAUDNet, section 3.1)."""

from __future__ import annotations

import torch
from torch import nn

from laudc.ops._geometry import grid_size
from laudc.ops.mask_rows import MaskRows, MaskRowsSpec
from laudc.ops.patch_masker import PatchMasker, PatchMaskerSpec
from laudc.paradigms.base import Paradigm, call_masker, mask_value, seeded
from laudc.program import Block, Program, type_of

_KEEP_BIAS = 5.0
"""LAUDNet starts with P(keep) of about .993."""


class Spatial(Paradigm):
    def default_granularity(self, block: Block) -> int:
        """4-4-2-1 on maps of 56, 28, 14, 7: the granularity of LAUDNet's ResNets."""
        return max(1, min(4, min(block.out_size) // 7))

    def granularities(self, block: Block) -> tuple[int, ...]:
        """Powers of two, and sides that divide the map, up to half of it; a larger patch is the layer paradigm's."""
        side = min(block.out_size)
        divisors = {s for s in range(1, side // 2 + 1) if all(extent % s == 0 for extent in block.out_size)}
        powers = {1 << p for p in range(side.bit_length()) if 1 << p <= max(1, side // 2)}
        return tuple(sorted(divisors | powers))

    def whole(self, block: Block) -> int:
        """The longer side of the map."""
        return max(block.out_size)

    def refuse(self, block: Block, granularity: int) -> str | None:
        return None

    def units(self, block: Block, granularity: int) -> tuple[int, ...]:
        return grid_size(granularity, *block.out_size)

    def insert(self, program: Program, block: Block, granularity: int, key: str, generator: torch.Generator) -> None:
        entry = program.node(block.entry)
        channels = type_of(entry).shape[1]
        spec = PatchMaskerSpec(key=key, channels=channels, granularity=granularity, stride=block.stride)
        masker = PatchMasker(spec)
        seeded(masker, "weight", channels**-0.5, generator)
        masker.register_parameter("bias", nn.Parameter(torch.tensor([_KEEP_BIAS, 0.0])))
        masks = next(node for node in program.nodes if node.target == "masks")
        name = "masker_" + key.rpartition(".")[2]
        mask = call_masker(program, block, name, masker, entry, masks)
        last = program.node(block.branch[-1])
        mask_value(program, last, MaskRows(MaskRowsSpec(granularity=granularity)), mask, block)


PARADIGM = Spatial()
