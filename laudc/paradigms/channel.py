"""Channel skipping: G adjacent channels of the block's inner width are computed or left (LAUDNet, section 3.1).

The mask acts after the activation, so a dropped channel is an exact zero for what reads it.
"""

from __future__ import annotations

import torch
from torch import nn

from laudc.ops.channel_masker import ChannelMasker, ChannelMaskerSpec
from laudc.ops.global_pool import GlobalPool, GlobalPoolSpec
from laudc.ops.mask_channels import MaskChannels, MaskChannelsSpec
from laudc.paradigms.base import Paradigm, call_masker, later, mask_value, seeded
from laudc.program import Block, Program, insert_op, type_of

_KEEP_BIAS, _DROP_BIAS = 2.0, -2.0
"""LAUDNet starts with P(keep) of about .982."""


class Channel(Paradigm):
    def default_granularity(self, block: Block) -> int:
        """The widest of 16, 8, 4, 2, 1 that leaves four decisions; whole groups on a grouped convolution."""
        sizes = [size for size in (16, 8, 4, 2, 1) if block.width % size == 0 and block.width // size >= 4]
        fits = [size for size in sizes if size % block.group_width == 0]
        return fits[0] if fits else max(block.group_width, 1)

    def granularities(self, block: Block) -> tuple[int, ...]:
        """Powers of two that keep whole groups whole and leave at least two decisions."""
        powers = (1 << p for p in range(block.width.bit_length()))
        fits = (g for g in powers if block.width % g == 0 and g % max(block.group_width, 1) == 0)
        return tuple(g for g in fits if block.width // g >= 2)

    def whole(self, block: Block) -> int:
        """The inner width."""
        return block.width

    def refuse(self, block: Block, granularity: int) -> str | None:
        if block.width % granularity:
            return f"{granularity} adjacent channels do not divide the inner width of {block.width}"
        return None

    def units(self, block: Block, granularity: int) -> tuple[int, ...]:
        return (block.width // granularity,)

    def insert(self, program: Program, block: Block, granularity: int, key: str, generator: torch.Generator) -> None:
        entry = program.node(block.entry)
        channels, decisions = type_of(entry).shape[1], block.width // granularity
        hidden = max(decisions // 16, 16)
        masker = ChannelMasker(ChannelMaskerSpec(key=key, channels=channels, decisions=decisions, hidden=hidden))
        seeded(masker, "weight1", channels**-0.5, generator)
        seeded(masker, "bias1", channels**-0.5, generator)
        seeded(masker, "weight2", hidden**-0.5, generator)
        bias = torch.cat([torch.full((decisions,), _KEEP_BIAS), torch.full((decisions,), _DROP_BIAS)])
        masker.register_parameter("bias2", nn.Parameter(bias))
        masks = next(node for node in program.nodes if node.target == "masks")
        with program.graph.graph.inserting_after(later(entry, masks)):
            pooled = insert_op(
                program, f"{block.name}.masker_pool", GlobalPool(GlobalPoolSpec()), (entry,), block=block.name
            )
        mask = call_masker(program, block, "masker_channel", masker, pooled, masks)
        for name in block.inner:
            mask_value(program, program.node(name), MaskChannels(MaskChannelsSpec(group=granularity)), mask, block)


PARADIGM = Channel()
