"""What the commands that predict have in common: the network they are asked about, and for which device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laudc.latency.planner import Search
    from laudc.program import Program
    from laudc.targets import Target


def wanted_network(model: str, size: tuple[int, int] | None) -> tuple[str, Program]:
    """The network of that name with its blocks; its weights do not matter."""
    import torch

    from laudc.convert import example_for, read_blocks
    from laudc.models import check_name, open_model

    check_name(model)
    named = open_model(model, seed=0, pretrained=False)
    channels = example_for(named.module).shape[1]
    example = torch.zeros(1, channels, *(size or named.preprocessing.size))
    return named.source["model"], read_blocks(named.module.eval(), example, source=named.source)


def search_for(
    program: Program,
    target: str | None,
    *,
    batch: int,
    rate: float,
    paradigm: str,
    margin: float,
    dtype: str | None,
) -> Search:
    """What to plan for, checked."""
    from laudc.latency.planner import Search

    device, kind = device_for(target, dtype)
    return Search.of(program, device, batch=batch, rate=rate, dtype=kind, paradigm=paradigm, margin=margin)


def device_for(target: str | None, dtype: str | None) -> tuple[Target, str]:
    """The device that is meant, and the data type it computes in."""
    from laudc.errors import InputError
    from laudc.latency.machine import here, local_target
    from laudc.targets import load_target

    device = local_target() if target is None else here(load_target(target))
    kind = dtype or device.default_dtype
    if kind not in device.dtypes:
        raise InputError(f"{device.name} does not compute in {kind!r}", f"choose {' or '.join(device.dtypes)}")
    return device, kind
