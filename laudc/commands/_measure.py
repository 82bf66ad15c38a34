"""What the images gave, and the time of the network beside the static one, call by call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from laudc.errors import LaudcError

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.compiled import CompiledModel
    from laudc.dynamic_model import DynamicModel
    from laudc.plan import Plan
    from laudc.program import Program

    Model: TypeAlias = DynamicModel | CompiledModel

_OURS = "this network"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the images gave."""

    outputs: Tensor
    decisions: Mapping[str, Tensor]
    """Of all images; the padding of the last batch is left out."""
    padded: int
    """How many images the last batch lacked."""
    times_ms: Sequence[float]
    """Of the timed calls."""
    static_ms: Mapping[str, Sequence[float]]
    """The same of the static network, by what runs it; none where it was not timed."""
    static_note: str
    """Why the static network is not among them that laudc compiles; empty where it is, or was not asked for."""
    masker_fused: frozenset[str]
    """Blocks whose first convolution runs everywhere, because it carries the masker."""


def measured(
    model: Model,
    inputs: Tensor,
    *,
    batch: int,
    rate: float | None,
    seed: int,
    repeat: int,
    static: bool,
    now: Callable[[str], None],
) -> Outcome:
    """All images through the network once, then `repeat` timed calls of the first batch; `now` hears what goes on."""
    import torch

    from laudc.compiled import CompiledModel
    from laudc.flops import masker_fused
    from laudc.tf32 import torch_multiplies_as
    from laudc.timing import interleaved_ms

    device, dtype = (model.target.kind, model.dtype) if isinstance(model, CompiledModel) else ("cpu", "float32")
    draw = _mask_source(model, batch, rate, seed)
    padded = -len(inputs) % batch
    whole = torch.cat([inputs, inputs[-1:].expand(padded, -1, -1, -1)])
    outputs, decided = [], []
    with torch.inference_mode(), torch_multiplies_as(dtype):
        for call, images in enumerate(whole.split(batch)):
            outputs.append(_call(model, images.to(device), draw(call)))
            decided.append({key: mask.cpu() for key, mask in model.decisions.items()})
        images = whole[:batch].to(device)
        pool = [_moved(draw(call), device) for call in range(repeat)]
        beside, note = _static(model, images, now) if static and isinstance(model, CompiledModel) else ({}, "")
        variants = {_OURS: lambda call: _call(model, images, pool[call]), **beside}
        samples = interleaved_ms(
            variants,
            rounds=repeat,
            progress=lambda name, call: now(f"timing {_in_words(name)}, call {call + 1} of {repeat}"),
        )
    keys = decided[0]
    fused = masker_fused(model.lowering.lowered) if isinstance(model, CompiledModel) else frozenset[str]()
    return Outcome(
        outputs=torch.cat(outputs)[: len(inputs)],
        decisions={key: torch.cat([one[key] for one in decided])[: len(inputs)] for key in keys},
        padded=padded,
        times_ms=samples.pop(_OURS),
        static_ms=samples,
        static_note=note,
        masker_fused=fused,
    )


def parts(model: Model) -> tuple[Program, Plan | None]:
    """The converted program, and its plan unless it is static."""
    from laudc.dynamic_model import DynamicModel

    return (model.program, model.plan) if isinstance(model, DynamicModel) else (model.lowering.converted, model.plan)


def _mask_source(model: Model, batch: int, rate: float | None, seed: int) -> Callable[[int], dict[str, Tensor] | None]:
    """The random masks of each call, by its number; None where the maskers decide."""
    from laudc.dynamic_model import mask_shapes
    from laudc.rates import stratified_masks

    program, plan = parts(model)
    if rate is None or plan is None:
        return lambda call: None
    shapes = mask_shapes(program, plan)
    return lambda call: stratified_masks(shapes, batch=batch, rate=rate, seed=seed, call=call)


def _moved(masks: dict[str, Tensor] | None, device: str) -> dict[str, Tensor] | None:
    return None if masks is None else {key: mask.to(device) for key, mask in masks.items()}


def _call(model: Model, images: Tensor, masks: Mapping[str, Tensor] | None) -> Tensor:
    out: Tensor = model(images, masks)
    return out.float().cpu()  # also waits for the device


def _in_words(name: str) -> str:
    return name if name == _OURS else f"the static network by {name}"


def _static(
    model: CompiledModel, images: Tensor, now: Callable[[str], None]
) -> tuple[dict[str, Callable[[int], object]], str]:
    """The static network by what runs it, in the precision of the compiled one, on its device; why laudc does not."""
    import torch

    from laudc.report.console import bar
    from laudc.static_network import in_laudc, in_torch
    from laudc.types import in_memory

    now("preparing the static network")
    dtype = getattr(torch, in_memory(model.dtype))
    networks: dict[str, Callable[[Tensor], Tensor]] = {}
    note = ""
    if model.plan is not None:
        try:
            networks["laudc"] = in_laudc(
                model, lambda ready, all_: now(bar("building the static network", ready, all_))
            )
        except LaudcError as error:
            note = f"the static network by laudc cannot be timed here: {error.fact}"
    networks |= in_torch(model.lowering.converted, dtype=dtype, device=model.target.kind)

    def timed(network: Callable[[Tensor], Tensor]) -> Callable[[int], object]:
        return lambda call: network(images).float().cpu()

    return {name: timed(network) for name, network in networks.items()}, note
