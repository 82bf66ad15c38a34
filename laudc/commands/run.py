"""`laudc run`: images through a network, and what of it really ran."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands import _options
from laudc.commands._cache import warn_of_cache
from laudc.commands._facts import RANDOM_MASKS, UNTRAINED, class_names, masker_state, refuse_device, weights_name
from laudc.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.artifact import LaudFile
    from laudc.commands._measure import Model, Outcome
    from laudc.plan import Plan

_TOP = 5


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

    A compiled file runs its kernels, and is timed beside the static network, by laudc (compiled for this, which takes
    a while the first time) and by torch. A converted one runs dense and masked on torch: the same numbers, nothing
    saved.
    """
    from laudc.report.console import print_json, progress

    with progress(f"loading {artifact}", after_s=0) as now:  # before torch is imported, which may take seconds
        from laudc.artifact import read
        from laudc.commands._measure import measured
        from laudc.plan import check_rate

        if rate is not None:
            check_rate(rate)
        found = read(artifact)
        refuse_device(found)
        shape = _input_shape(found)
        inputs = _read_images(images, found, shape)
        plan = found.plan
        nominal = _nominal(plan, rate)
        if found.kind == "compiled":
            warn_of_cache()
        model = found.model(trust=trust)
        now("running")
        outcome = measured(
            model,
            inputs,
            batch=shape[0] if found.kind == "compiled" else 1,
            rate=nominal,
            seed=_seed(plan, seed),
            repeat=repeat,
            static=static,
            now=now,
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


def _nominal(plan: Plan | None, rate: float | None) -> float | None:
    if plan is None and rate is not None:
        raise InputError("the network is static: it has no masks to set", "leave --rate out")
    return rate if rate is not None or plan is None else plan.rate


def _seed(plan: Plan | None, seed: int | None) -> int:
    return seed if seed is not None else plan.seed if plan is not None else 0


# ---- what is said


def _facts(
    artifact: Path, images: Sequence[Path], model: Model, outcome: Outcome, *, nominal: float | None, repeat: int
) -> dict[str, Any]:
    from laudc.commands._measure import parts
    from laudc.compiled import CompiledModel
    from laudc.flops import executed_macs, static_macs
    from laudc.rates import executed_rates
    from laudc.timing import fastest, verdict

    program, plan = parts(model)
    compiled = model if isinstance(model, CompiledModel) else None
    rates = executed_rates(outcome.decisions)
    static = static_macs(program)
    executed = executed_macs(program, outcome.decisions, masker_fused=outcome.masker_fused)
    best = fastest(outcome.static_ms) if outcome.static_ms else None
    by = {name: _times(times_ms) for name, times_ms in outcome.static_ms.items()}
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
        **_times(outcome.times_ms),
        "repeat": repeat,
        "static": best,
        "static_ms": None if best is None else by[best]["median_ms"],
        "static_variants": [{"by": name, **times} for name, times in by.items()],
        "static_note": outcome.static_note,
        "verdict": None if best is None else verdict(outcome.times_ms, outcome.static_ms),
        "images": [
            {"image": str(path), "top": _top(output, class_names(program.source))}
            for path, output in zip(images, outcome.outputs, strict=True)
        ],
    }


def _times(times_ms: Sequence[float]) -> dict[str, Any]:
    from laudc.timing import middle_half

    return {
        "median_ms": round(statistics.median(times_ms), 3),
        "middle_half_ms": [round(quartile, 3) for quartile in middle_half(times_ms)],
    }


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


def _print(model: Model, outcome: Outcome, images: Sequence[Path], facts: Mapping[str, Any]) -> None:
    from laudc.commands._measure import parts
    from laudc.flops import block_macs
    from laudc.report.console import table

    program, _ = parts(model)
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
    from laudc.timing import digits

    forced = facts["nominal_rate"] is not None
    if forced:
        click.echo(f"{RANDOM_MASKS}: nominal rate {facts['nominal_rate']}, executed {facts['executed_rate']}")
    elif model.plan is not None:
        label = f"; {UNTRAINED}" if facts["maskers"] == "untrained" else ""
        click.echo(f"executed rate {facts['executed_rate']}{label}")
    click.echo(f"{digits(facts['executed_mmacs'])} MMACs an image, {digits(facts['static_mmacs'])} static")
    batch = facts["batch"]
    if facts["padded"]:
        click.echo(f"the last batch of {batch} was filled up with the last image (x{facts['padded']})")
    call = f"a call, {batch} image{'' if batch == 1 else 's'}"
    label = f" ({RANDOM_MASKS})" if forced else ""
    click.echo(f"{digits(facts['median_ms'])} ms {call}, median of {facts['repeat']}{label}, on {facts['runs_on']}")
    if facts["static_note"]:
        click.echo(facts["static_note"])
    if facts["verdict"] is not None:
        each = "; ".join(f"by {one['by']} {digits(one['median_ms'])} ms" for one in facts["static_variants"])
        click.echo(f"the static network: {each}")
        click.echo(facts["verdict"])
    elif isinstance(model, DynamicModel):
        click.echo("nothing is skipped there: compile it to save the time")
