"""What a paradigm has to say of a block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import fx, nn
from torch.fx.node import Argument

from laudc.ops._masker import Masker
from laudc.ops.base import Op
from laudc.program import Block, Program, elements, insert_op


class Paradigm(ABC):
    """One way to be dynamic. It edits a program that is already a clone."""

    takes_granularity: bool = True

    @abstractmethod
    def default_granularity(self, block: Block) -> int:
        """What is used where the user names none."""

    @abstractmethod
    def granularities(self, block: Block) -> tuple[int, ...]:
        """Those worth weighing for this block, the finest first."""

    def whole(self, block: Block) -> int:
        """The granularity at which one decision holds for all of the block."""
        return max(self.granularities(block), default=0)

    @abstractmethod
    def refuse(self, block: Block, granularity: int) -> str | None:
        """Why this block cannot be dynamic this way, or None."""

    @abstractmethod
    def units(self, block: Block, granularity: int) -> tuple[int, ...]:
        """The shape of one sample's decisions."""

    @abstractmethod
    def insert(self, program: Program, block: Block, granularity: int, key: str, generator: torch.Generator) -> None:
        """Put the masker behind the block's entry and the mask where it acts."""


def call_masker(program: Program, block: Block, name: str, op: Masker, x: fx.Node, masks: fx.Node) -> fx.Node:
    """Insert the masker behind x; the value that comes back is its decisions."""
    graph = program.graph.graph
    with graph.inserting_after(later(x, masks)):
        masker = insert_op(program, f"{block.name}.{name}", op, (x,), block=block.name)
    masker.args = (x, masks)
    mask, logits = elements(masker, "mask", "logits")
    output = graph.output_node()
    result, decided = cast(tuple[fx.Node, dict[str, Argument]], output.args[0])  # set by insert_maskers
    output.args = ((result, {**decided, op.key: (mask, logits)}),)
    return mask


def mask_value(program: Program, value: fx.Node, op: Op, mask: fx.Node, block: Block) -> None:
    """Let every reader of `value` read it masked."""
    with program.graph.graph.inserting_after(later(value, mask)):
        masked = insert_op(program, f"{value.name}_{mask.name}", op, (value, mask), block=block.name)
    value.replace_all_uses_with(masked, delete_user_cb=lambda user: user is not masked)


def later(first: fx.Node, second: fx.Node) -> fx.Node:
    """The one that the graph computes last."""
    return second if first < second else first


def seeded(op: Op, name: str, bound: float, generator: torch.Generator) -> None:
    """Set a weight uniformly in (-bound, bound) from the generator."""
    shape = op.spec.weights()[name]
    values = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    op.register_parameter(name, nn.Parameter(values))
