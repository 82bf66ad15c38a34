"""The static network as a user could run it with torch instead, each way as fast as torch makes it.

torch, torch + channels_last            eagerly, norms folded
CUDA graph                              the latter, captured once and replayed
torch.compile                           inductor with its defaults
torch.compile, max-autotune             inductor's own CUDA graphs included
inductor in a CUDA graph                max-autotune without them, captured as a whole
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor

from laudc.program import Program
from laudc.static_network import in_torch

Network = Callable[[Tensor], Tensor]

_WARM_UP = 3


def baselines(
    program: Program, example: Tensor, *, dtype: torch.dtype, compiled: bool
) -> Mapping[str, Callable[[], Network]]:
    """By name, what makes each of them, which may take minutes where torch compiles.

    example: an input (B, C, H, W) on the device, in the precision that is meant. compiled: with torch.compile's.
    """
    device = example.device.type
    eager = in_torch(program, dtype=dtype, device=device)
    last = eager["torch, channels_last"]
    made: dict[str, Callable[[], Network]] = {name: partial(_as_is, network) for name, network in eager.items()}
    if device == "cuda":
        made["CUDA graph"] = lambda: captured(last, example)
    if compiled:
        made["torch.compile"] = lambda: _compiled(last, None)
        made["torch.compile, max-autotune"] = lambda: _compiled(last, "max-autotune")
    if compiled and device == "cuda":
        made["inductor in a CUDA graph"] = lambda: captured(_compiled(last, "max-autotune-no-cudagraphs"), example)
    return made


def _as_is(network: Network) -> Network:
    return network


def _compiled(network: Network, mode: str | None) -> Network:
    torch._dynamo.reset()
    return cast(Network, torch.compile(network, mode=mode))


def captured(network: Network, example: Tensor) -> Network:
    """The network as one CUDA graph for inputs like the example, copied in and out."""
    x = example.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = network(x)

    def replay(images: Tensor) -> Tensor:
        x.copy_(images)
        graph.replay()
        return y.clone()

    return replay
