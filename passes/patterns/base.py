"""What a pattern sees of a residual region, and what it answers.

          ┌── branch: conv, norm, act, conv, ... ──┐
entry ────┤                                        add ── exit activation
          └── shortcut: nothing, or a projection ──┘
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

from torch import fx

from laudc.ops.conv2d import Conv2dSpec
from laudc.program import Program


@dataclass(frozen=True, kw_only=True)
class Region:
    """Two straight paths from one value to one add."""

    program: Program
    entry: fx.Node
    add: fx.Node
    paths: tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]
    """The nodes of each path, in order, without entry and add."""

    def signature(self, path: tuple[fx.Node, ...]) -> tuple[str, ...]:
        """The operations of a path by name; norms left out, since they fold into what is before them."""
        names = tuple(self._name(node) for node in path)
        return tuple(name for name in names if name != "batch_norm")

    def _name(self, node: fx.Node) -> str:
        op = self.program.op(node)
        if op is not None:
            return op.spec.name
        called = node.target
        if node.op == "call_module":
            called = type(self.program.graph.get_submodule(cast(str, called)))
        return getattr(called, "__name__", str(called))

    def conv(self, node: fx.Node) -> Conv2dSpec:
        """The spec of a node known to be a convolution."""
        op = self.program.op(node)
        assert op is not None, node
        assert isinstance(op.spec, Conv2dSpec), node
        return op.spec

    def convs(self, path: tuple[fx.Node, ...]) -> tuple[Conv2dSpec, ...]:
        """The convolutions of a path, in order."""
        return tuple(self.conv(node) for node in path if self._name(node) == "conv2d")


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A region that is understood."""

    branch: tuple[fx.Node, ...]
    shortcut: tuple[fx.Node, ...]
    inner: tuple[fx.Node, ...]
    """The activations between the convolutions: where channels may be masked."""


class Pattern(ABC):
    """One kind of residual block."""

    rank: int = 50
    """Lower is asked first."""

    @abstractmethod
    def match(self, region: Region) -> Match | str:
        """The parts, or the reason why it is none of these."""


PROJECTIONS = ((), ("conv2d",), ("avg_pool", "conv2d"), ("max_pool", "conv2d"))


@dataclass(frozen=True, kw_only=True)
class ConvChain(Pattern):
    """A branch of convolutions with an activation between each two, beside an identity or a projection."""

    kernels: tuple[str, ...]
    """For each convolution "1x1" or "any"."""
    preactivated: bool = False
    """Whether the first convolution too has an activation before it."""

    def match(self, region: Region) -> Match | str:
        wanted = ("activation", "conv2d") * len(self.kernels)
        wanted = wanted if self.preactivated else wanted[1:]
        for branch, shortcut in (region.paths, region.paths[::-1]):
            if region.signature(branch) == wanted and region.signature(shortcut) in PROJECTIONS:
                break
        else:
            first, second = (" ".join(region.signature(path)) or "nothing" for path in region.paths)
            return f"its two paths are {first} | {second}"
        for spec, kernel in zip(region.convs(branch), self.kernels, strict=True):
            if kernel == "1x1" and spec.kernel != (1, 1):
                return f"a {spec.kernel[0]}x{spec.kernel[1]} convolution stands where a 1x1 is expected"
        activations = tuple(node for node in branch if cast(object, region.signature((node,))) == ("activation",))
        inner = activations[1:] if self.preactivated else activations
        return Match(branch=branch, shortcut=shortcut, inner=inner)
