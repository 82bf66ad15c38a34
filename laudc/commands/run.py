"""`laudc run`: images through a network, and what of it really ran."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from laudc.commands import _options
from laudc.commands._facts import RANDOM_MASKS, UNTRAINED, class_names, masker_state, refuse_device, weights_name
from laudc.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.artifact import LaudFile
    from laudc.compiled import CompiledModel
    from laudc.dynamic_model import DynamicModel
    from laudc.plan import Plan
    from laudc.program import Program

    Model: TypeAlias = DynamicModel | CompiledModel

_TOP = 5
_OURS = "laudc"
_LOADED = 1.25  # runnable processes a core
_STEADY = 2.0  # the third quartile over the first, beyond which times say nothing


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What the images gave."""

    outputs: Tensor
    decisions: Mapping[str, Tensor]
    """Of all images; the padding of the last batch is left out."""
    padded: int
    """How many images the last batch lacked."""
    times_ms: Sequence[float]
    """Of the timed calls."""
    static_ms: Mapping[str, Sequence[float]]
    """The same of the static network on torch, by variant; none where it was not timed."""
    masker_fused: frozenset[str]
    """Blocks whose first convolution runs everywhere, because it carries the masker."""


@click.command("run", short_help="Classify images, with the work skipped.", context_settings=_options.SETTINGS)
@_options.artifact
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@_options.rate
@click.option("--repeat", type=click.IntRange(min=1), default=10, help="Calls that the time is the median of.")
@click.option("--static/--no-static", default=True, help="Time the static network beside a compiled one.")
@_options.trust
@click.option("--seed", type=_options.SEED, help="Of the random masks.", show_default="the plan's")
@_options.as_json
def _run(
    artifact: Path,
    images: tuple[Path, ...],
    rate: float | None,
    repeat: int,
    static: bool,
    trust: bool,
    seed: int | None,
    as_json: bool,
) -> None:
    """Run IMAGES through ARTIFACT: the five best classes, what share of each block ran, and the time.

    A compiled file runs its kernels, and is timed beside the static network on torch. A converted one runs dense and
    masked on torch: the same numbers, nothing saved.
    """
    from laudc.artifact import read
    from laudc.plan import check_rate
    from laudc.report.console import print_json, progress

    if rate is not None:
        check_rate(rate)
    found = read(artifact)
    refuse_device(found)
    shape = _input_shape(found)
    inputs = _read_images(images, found, shape)
    plan = found.plan
    nominal = _nominal(plan, rate)
    with progress(f"loading {artifact}") as now:
        model = found.model(trust=trust)
        now("running")
        outcome = _measured(
            model,
            inputs,
            batch=shape[0] if found.kind == "compiled" else 1,
            rate=nominal,
            seed=_seed(plan, seed),
            repeat=repeat,
            static=static,
        )
    facts = _facts(artifact, images, model, outcome, nominal=nominal, repeat=repeat)
    if as_json:
        print_json(facts)
    else:
        _print(model, outcome, images, facts)


COMMAND = _run


# ---- before anything runs


def _input_shape(found: LaudFile) -> tuple[int, ...]:
    """(B, C, H, W)."""
    try:
        given = found.manifest["shape"] if found.kind == "compiled" else found.graph["nodes"][0]["input"][0]
        batch, channels, height, width = map(int, given)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ArtifactError(f"{found.path} does not say what it reads", "make it again") from error
    return batch, channels, height, width


def _read_images(images: Sequence[Path], found: LaudFile, shape: tuple[int, ...]) -> Tensor:
    import torch

    from laudc.preprocess import Preprocessing, load_image

    record = Preprocessing.of(found.graph.get("source", {}))
    size, channels = (shape[2], shape[3]), shape[1]
    return torch.cat([load_image(path, record, size=size, channels=channels) for path in images])


def _parts(model: Model) -> tuple[Program, Plan | None]:
    from laudc.dynamic_model import DynamicModel

    return (model.program, model.plan) if isinstance(model, DynamicModel) else (model.lowering.converted, model.plan)


def _nominal(plan: Plan | None, rate: float | None) -> float | None:
    if plan is None and rate is not None:
        raise InputError("the network is static: it has no masks to set", "leave --rate out")
    return rate if rate is not None or plan is None else plan.rate


def _seed(plan: Plan | None, seed: int | None) -> int:
    return seed if seed is not None else plan.seed if plan is not None else 0


# ---- running


def _measured(
    model: Model, inputs: Tensor, *, batch: int, rate: float | None, seed: int, repeat: int, static: bool
) -> _Outcome:
    import torch

    from laudc.compiled import CompiledModel
    from laudc.flops import masker_fused
    from laudc.timing import interleaved_ms

    device = model.target.kind if isinstance(model, CompiledModel) else "cpu"
    draw = _mask_source(model, batch, rate, seed)
    padded = -len(inputs) % batch
    whole = torch.cat([inputs, inputs[-1:].expand(padded, -1, -1, -1)])
    outputs, decided = [], []
    with torch.inference_mode():
        for call, images in enumerate(whole.split(batch)):
            outputs.append(_call(model, images.to(device), draw(call)))
            decided.append({key: mask.cpu() for key, mask in model.decisions.items()})
        images = whole[:batch].to(device)
        pool = [_moved(draw(call), device) for call in range(repeat)]
        beside = _static_variants(model, images) if static and isinstance(model, CompiledModel) else {}
        variants = {_OURS: lambda call: _call(model, images, pool[call]), **beside}
        samples = interleaved_ms(variants, rounds=repeat)
    keys = decided[0]
    fused = masker_fused(model.lowering.lowered) if isinstance(model, CompiledModel) else frozenset[str]()
    return _Outcome(
        outputs=torch.cat(outputs)[: len(inputs)],
        decisions={key: torch.cat([one[key] for one in decided])[: len(inputs)] for key in keys},
        padded=padded,
        times_ms=samples.pop(_OURS),
        static_ms=samples,
        masker_fused=fused,
    )


def _mask_source(model: Model, batch: int, rate: float | None, seed: int) -> Callable[[int], dict[str, Tensor] | None]:
    """The random masks of each call, by its number; None where the maskers decide."""
    from laudc.dynamic_model import mask_shapes
    from laudc.rates import stratified_masks

    program, plan = _parts(model)
    if rate is None or plan is None:
        return lambda call: None
    shapes = mask_shapes(program, plan)
    return lambda call: stratified_masks(shapes, batch=batch, rate=rate, seed=seed, call=call)


def _moved(masks: dict[str, Tensor] | None, device: str) -> dict[str, Tensor] | None:
    return None if masks is None else {key: mask.to(device) for key, mask in masks.items()}


def _call(model: Model, images: Tensor, masks: Mapping[str, Tensor] | None) -> Tensor:
    out: Tensor = model(images, masks)
    return out.float().cpu()  # also waits for the device


def _static_variants(model: CompiledModel, images: Tensor) -> dict[str, Callable[[int], object]]:
    """The static network on torch, in the precision of the compiled one, on its device."""
    import torch

    from laudc.static_network import in_torch

    dtype = torch.float16 if model.dtype == "float16" else torch.float32
    networks = in_torch(model.lowering.converted, dtype=dtype, device=model.target.kind)

    def timed(network: Callable[[Tensor], Tensor]) -> Callable[[int], object]:
        return lambda call: network(images).float().cpu()

    return {name: timed(network) for name, network in networks.items()}


# ---- what is said


def _facts(
    artifact: Path, images: Sequence[Path], model: Model, outcome: _Outcome, *, nominal: float | None, repeat: int
) -> dict[str, Any]:
    from laudc.compiled import CompiledModel
    from laudc.flops import executed_macs, static_macs
    from laudc.rates import executed_rates

    program, plan = _parts(model)
    compiled = model if isinstance(model, CompiledModel) else None
    rates = executed_rates(outcome.decisions)
    static = static_macs(program)
    executed = executed_macs(program, outcome.decisions, masker_fused=outcome.masker_fused)
    medians = {name: statistics.median(times_ms) for name, times_ms in outcome.static_ms.items()}
    best_static = min(medians, key=medians.__getitem__, default=None)
    units = sum(mask.numel() for mask in outcome.decisions.values())
    on = sum(rates[key] * mask.numel() for key, mask in outcome.decisions.items())
    return {
        "file": str(artifact),
        "runs_on": f"kernels for {compiled.target.name}" if compiled else "torch, dense and masked",
        "weights": weights_name(program),
        "masks": "none" if plan is None else RANDOM_MASKS if nominal is not None else "the maskers'",
        "maskers": masker_state(program),
        "nominal_rate": nominal,
        "executed_rate": round(on / units, 4) if units else None,
        "rates": {key: round(rate, 4) for key, rate in rates.items()},
        "static_mmacs": round(static / 1e6, 3),
        "executed_mmacs": round(executed / 1e6, 3),
        "batch": compiled.shape[0] if compiled else 1,
        "padded": outcome.padded,
        "median_ms": round(statistics.median(outcome.times_ms), 3),
        "middle_half_ms": _middle_half(outcome.times_ms),
        "repeat": repeat,
        "static": best_static,
        "static_ms": None if best_static is None else round(medians[best_static], 3),
        "static_middle_half_ms": None if best_static is None else _middle_half(outcome.static_ms[best_static]),
        "images": [
            {"image": str(path), "top": _top(output, class_names(program.source))}
            for path, output in zip(images, outcome.outputs, strict=True)
        ],
    }


def _middle_half(times_ms: Sequence[float]) -> list[float]:
    """The first and the third quartile."""
    if len(times_ms) < 2:
        return [round(times_ms[0], 3)] * 2
    low, _, high = statistics.quantiles(times_ms, n=4, method="inclusive")
    return [round(low, 3), round(high, 3)]


def _top(output: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """The best classes, likeliest first; none where the output is not one number a class."""
    if output.ndim != 1:
        return []
    likely = output.softmax(0).topk(min(_TOP, len(output)))
    known = names if len(names) == len(output) else []
    return [
        {"index": index, "class": known[index] if known else None, "probability": round(share, 4)}
        for share, index in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
    ]


def _print(model: Model, outcome: _Outcome, images: Sequence[Path], facts: Mapping[str, Any]) -> None:
    from laudc.flops import block_macs
    from laudc.report.console import table

    program, _ = _parts(model)
    for path, output in zip(images, outcome.outputs, strict=True):
        best = _top(output, class_names(program.source))
        rows = [(one["class"] or f"class {one['index']}", one["probability"]) for one in best]
        table(f"{path}", ("class", "probability"), rows)
    if facts["weights"] == "random":
        click.echo("weights: random, the classes mean nothing")
    costs = {one.name: one for one in block_macs(program, outcome.decisions, masker_fused=outcome.masker_fused)}
    what_ran: list[tuple[str, float, float | str, float | str]] = []
    for key in outcome.decisions:
        cost = costs.pop(key.rpartition(".")[0], None)  # a block that is dynamic in two ways costs once
        mmacs = (round(cost.dense / 1e6, 1), round(float(cost.executed) / 1e6, 1)) if cost else ("", "")
        what_ran.append((key, facts["rates"][key], *mmacs))
    if what_ran:
        table("what ran", ("masks", "executed rate", "dense MMACs", "executed MMACs"), what_ran)
        click.echo("MMACs are those of the whole block: with the halo that the next convolution reads, and the masker")
    _print_summary(model, facts)


def _print_summary(model: Model, facts: Mapping[str, Any]) -> None:
    from laudc.dynamic_model import DynamicModel

    forced = facts["nominal_rate"] is not None
    if forced:
        click.echo(f"{RANDOM_MASKS}: nominal rate {facts['nominal_rate']}, executed {facts['executed_rate']}")
    elif model.plan is not None:
        label = f"; {UNTRAINED}" if facts["maskers"] == "untrained" else ""
        click.echo(f"executed rate {facts['executed_rate']}{label}")
    click.echo(f"{facts['executed_mmacs']} MMACs an image, {facts['static_mmacs']} static")
    if facts["padded"]:
        click.echo(f"the last batch of {facts['batch']} was filled up with the last image (x{facts['padded']})")
    label = f" ({RANDOM_MASKS})" if forced else ""
    click.echo(
        f"{facts['median_ms']} ms a call of {facts['batch']}, median of {facts['repeat']}{label}, on {facts['runs_on']}"
    )
    if facts["static_ms"] is not None:
        click.echo(f"the static network on {facts['static']}: {facts['static_ms']} ms, {_verdict(facts)}")
    elif isinstance(model, DynamicModel):
        click.echo("nothing is skipped there: compile it to save the time")


def _verdict(facts: Mapping[str, Any]) -> str:
    """Which is faster, unless the times of one vary, or others use the machine, so much that they cannot say."""
    spreads = [facts["middle_half_ms"], facts["static_middle_half_ms"]]
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > _LOADED * cores or any(high > _STEADY * low for low, high in spreads):
        ours, theirs = (f"{low:g} to {high:g} ms" for low, high in spreads)
        return (
            f"no verdict: the machine is busy (load {load:.1f} on {cores} cores; middle half of the calls {ours} and "
            f"{theirs})"
        )
    ratio = facts["median_ms"] / facts["static_ms"]
    return f"ratio {ratio:.2f}, {'faster' if ratio < 1 else 'SLOWER than doing all the work'}"
