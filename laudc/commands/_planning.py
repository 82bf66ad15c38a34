"""What the commands that predict have in common: the network they are asked about, and for which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laudc.program import Program
    from laudc.targets import Target


def wanted_network(model: str, size: tuple[int, int] | None) -> Program:
    """The network of that name with its blocks; its weights do not matter."""
    import torch

    from laudc.convert import example_for, read_blocks
    from laudc.models import check_name, open_model

    check_name(model)
    named = open_model(model, seed=0, pretrained=False)
    channels = example_for(named.module).shape[1]
    example = torch.zeros(1, channels, *(size or named.preprocessing.size))
    return read_blocks(named.module.eval(), example, source=named.source)


def network_of(model: str, size: tuple[int, int] | None) -> tuple[dict[str, object], Callable[[], Program]]:
    """What tells the network from others, and how to capture it. One in a file of the user's own has to be opened
    for that: its name does not tell what is in it."""
    if ".py:" not in model:
        return {"model": model, "size": size}, lambda: wanted_network(model, size)
    program = wanted_network(model, size)
    return {"program": program.digest}, lambda: program


def device_for(target: str | None, dtype: str | None) -> tuple[Target, str]:
    """The device that is meant, and the data type it computes in."""
    from laudc.errors import InputError
    from laudc.latency.machine import here, local_target
    from laudc.targets import load_target

    device = local_target() if target is None else here(load_target(target))
    kind = dtype or device.default_dtype
    if kind not in device.computes_in:
        raise InputError(f"{device.name} does not compute in {kind!r}", f"choose {' or '.join(device.computes_in)}")
    return device, kind
