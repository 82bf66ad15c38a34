"""How much GPU memory a network takes: what it keeps between calls, and the most that a call takes beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

_Network = TypeVar("_Network")


def measured_bytes(
    make: Callable[[], _Network], call: Callable[[_Network], object], *, device: str
) -> tuple[_Network, int | None]:
    """What `make` made, called twice, and the bytes it takes; None where the device is no GPU.

    What stood before is not counted, and what is kept (a CUDA graph's own pool too) is counted in torch's segments.
    """
    if device != "cuda":
        network = make()
        call(network)
        return network, None
    before = _kept()
    network = make()
    call(network)  # whatever is set up when it first runs
    after = _kept()
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call(network)
    torch.cuda.synchronize()
    return network, after - before + torch.cuda.max_memory_allocated() - start


def _kept() -> int:
    """What torch holds when it has given back what it can."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
