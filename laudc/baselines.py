"""The static network as a user could run it with torch instead, each way as fast as torch makes it.

torch, torch, channels_last             eagerly
CUDA graph                              the latter, captured once and replayed
torch.compile                           inductor with its defaults
torch.compile, max-autotune             inductor's own CUDA graphs included
torch.compile in a CUDA graph           inductor with its defaults, captured as a whole
max-autotune in a CUDA graph            max-autotune without inductor's graphs, captured as a whole

All with the norms folded into the convolutions; where there are norms, also with those apart, since either can be
faster. But inductor fuses a norm as it fuses a bias: max-autotune, which takes minutes, gets them folded only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor, nn

from laudc.program import Program
from laudc.static_network import InTorch, in_torch

Network = Callable[[Tensor], Tensor]

NORMS_APART = ", norms apart"
_WARM_UP = 3


def baselines(
    program: Program, example: Tensor, *, dtype: torch.dtype, compiled: bool
) -> Mapping[str, Callable[[], Network]]:
    """By name, what makes each of them, which may take minutes where torch compiles.

    example: an input (B, C, H, W) on the device, in the precision that is meant. compiled: with torch.compile's.
    """
    made: dict[str, Callable[[], Network]] = {}
    for folded in (True, False) if _has_norms(program) else (True,):
        found = in_torch(program, dtype=dtype, device=example.device.type, folded=folded)
        ways = _ways(found, example, compiled=compiled, tuned=compiled and folded)
        made |= {name + ("" if folded else NORMS_APART): make for name, make in ways}
    return made


def _has_norms(program: Program) -> bool:
    return any(op.spec.name == "batch_norm" for _, op in program.ops())


def _ways(
    found: Mapping[str, InTorch], example: Tensor, *, compiled: bool, tuned: bool
) -> Iterator[tuple[str, Callable[[], Network]]]:
    last, on_gpu = found["torch, channels_last"], example.device.type == "cuda"
    for name, network in found.items():
        yield name, partial(_as_is, network)
    if on_gpu:
        yield "CUDA graph", lambda: Captured(last, example)
    if compiled:
        default = _Compiled(last)
        yield "torch.compile", lambda: default.network
        if on_gpu:
            yield "torch.compile in a CUDA graph", lambda: Captured(default.network, example)
    if tuned:
        yield "torch.compile, max-autotune", lambda: _compiled(last, "max-autotune")
        if on_gpu:
            yield (
                "max-autotune in a CUDA graph",
                lambda: Captured(_compiled(last, "max-autotune-no-cudagraphs"), example),
            )


def _as_is(network: Network) -> Network:
    return network


@dataclass
class _Compiled:
    """Inductor's defaults, compiled once for all that use them."""

    of: InTorch

    @cached_property
    def network(self) -> Network:
        return _compiled(self.of, None)


def _compiled(network: InTorch, mode: str | None) -> Network:
    """Its module compiled for its own input; what brings an input into its form stays outside."""
    return replace(network, module=cast(nn.Module, torch.compile(network.module, mode=mode)))


def as_fast_as_torch(device: str) -> AbstractContextManager[object]:
    """Inside, cuDNN tries its algorithms out for every shape, once."""
    if device != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True)


class Captured:
    """A network as one CUDA graph for inputs like the example, copied in and out.

    It keeps the network: the graph's kernels read its weights where they lie.
    """

    def __init__(self, network: Network, example: Tensor) -> None:
        self._network = network
        self._x = example.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                network(self._x)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._y = network(self._x)

    def __call__(self, images: Tensor) -> Tensor:
        self._x.copy_(images)
        self._graph.replay()
        return self._y.clone()
