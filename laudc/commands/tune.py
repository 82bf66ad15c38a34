"""`laudc tune`: time the tiles of a network's kernels on the device that is here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options
from laudc.commands._cache import warn_of_cache

if TYPE_CHECKING:
    from laudc.commands._asked import Asked
    from laudc.compiled import CompiledModel
    from laudc.latency.tuned import Tuned
    from laudc.latency.tuning import Outcome
    from laudc.report.console import Json
    from laudc.targets import Target


@click.command("tune", short_help="Time the tiles of its kernels on this device.", context_settings=_options.SETTINGS)
@click.argument("model")
@click.option("--target", help="The device that is here, as a name or a file.", show_default="this machine")
@click.option("--batch", type=click.IntRange(min=1), help="Images a call.", show_default="1, or the plan's")
@_options.size("the model's own")
@click.option("--dtype", help="float32, float16, bfloat16 or tf32.", show_default="the target's")
@click.option("--paradigm", help="What a network that is named skips: spatial, layer, channel.", show_default="spatial")
@click.option(
    "--rates",
    type=_options.parse_rates,
    metavar="R,...",
    help="Of the random masks.",
    show_default="the plan's, .25,.5,.75,1",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Begin no kernel after so many.")
@_options.as_json
def _tune(
    model: str,
    target: str | None,
    batch: int | None,
    size: tuple[int, int] | None,
    dtype: str | None,
    paradigm: str | None,
    rates: tuple[float, ...] | None,
    minutes: float | None,
    as_json: bool,
) -> None:
    """Time the best tiles, by prediction, of every kernel of MODEL on the local device, and keep the fastest for it.

    MODEL is a converted .laud file, a plan.toml, or a network's name as in `laudc convert`; the static network, which
    it is compared with, has its turn last. `laudc compile` takes what is kept wherever it meets the same operation at
    the same batch, with as much of it on, in any network. Nothing is timed twice, so a run that was ended goes on when
    it is repeated. Leave the machine alone meanwhile.
    """
    from laudc.report.console import print_json, progress

    with progress(f"reading {model}", after_s=0) as now:
        from laudc.commands._asked import asked_for
        from laudc.commands._planning import device_for
        from laudc.latency.machine import refuse_busy, refuse_elsewhere
        from laudc.latency.tuned import tuned_for
        from laudc.latency.tuning import RATES, tune
        from laudc.plan import check_rate
        from laudc.static_network import in_laudc

        for rate in rates or ():
            check_rate(rate)
        plan_file = Path(model) if model.endswith(".toml") else None
        asked = asked_for(
            None if plan_file else model, plan_file, paradigm=paradigm, granularity=None, size=size, compare=False
        )
        device, kind = device_for(target or asked.target, dtype or asked.dtype)
        refuse_elsewhere(device)
        refuse_busy("tune")
        warn_of_cache()
        store = tuned_for(device)
        dynamic = _compiled(asked, device, kind, batch=batch, size=size, now=now)
        networks = (dynamic,) if dynamic.plan is None else (dynamic, in_laudc(dynamic))
        expected = () if dynamic.plan is None else (dynamic.plan.expected_rate,)
        outcome = tune(networks, store, rates=rates or (*expected, *RATES), minutes=minutes, say=now)
    if as_json:
        print_json(_facts(model, dynamic, store, outcome))
    else:
        _print(model, dynamic, store, outcome)


COMMAND = _tune


def _compiled(
    asked: Asked,
    device: Target,
    dtype: str,
    *,
    batch: int | None,
    size: tuple[int, int] | None,
    now: Callable[[str], None],
) -> CompiledModel:
    """As `laudc compile` would make it now."""
    from laudc.compiled import CompiledModel, build, lower
    from laudc.latency.planner import Search
    from laudc.passes.insert_maskers import InsertMaskers
    from laudc.program import input_type
    from laudc.report.console import bar

    program = asked.program()
    search = Search.of(program, device, batch=batch or asked.batch, rate=asked.rate, dtype=dtype)
    (plan,) = asked.plans(program, search).values()
    images = batch or (plan.made_for.batch if plan.made_for else asked.batch)
    shape = (images, input_type(program).shape[1], *(size or search.size))
    if not program.takes_masks and plan.decisions:
        program = InsertMaskers(plan=plan).run(program)
    decided = plan if plan.decisions else None
    lowering = lower(program, device, plan=decided, shape=shape, dtype=dtype, without=())
    binaries = build(lowering, lambda ready, all_: now(bar("building kernels", ready, all_)))
    return CompiledModel(plan=decided, target=device, dtype=dtype, without=(), lowering=lowering, binaries=binaries)


def _facts(model: str, network: CompiledModel, store: Tuned, outcome: Outcome) -> dict[str, Json]:
    from laudc.latency.constants import tuned_path

    return {
        "model": model,
        "target": network.target.name,
        "shape": list(network.shape),
        "dtype": network.dtype,
        "file": str(tuned_path(store.target)),
        "timed": [
            {
                "kernel": kernel.symbol,
                "op": timed.op,
                "types": list(timed.types),
                "band": timed.band,
                "schedule": timed.schedule,
                "choice": dict(timed.choice),
                "us": timed.us,
                "default_us": timed.default_us,
                "candidates": timed.candidates,
            }
            for kernel, timed in outcome.timed
        ],
        "known": outcome.known,
        "unsure": outcome.unsure,
        "left": outcome.left,
    }


def _print(model: str, network: CompiledModel, store: Tuned, outcome: Outcome) -> None:
    from laudc.latency.constants import tuned_path
    from laudc.report.console import table

    if outcome.timed:
        table(
            f"{model} on {network.target.title}: {network.dtype}, input {'x'.join(map(str, network.shape))}",
            ("kernel", "on", "schedule", "tiles", "default us", "best us"),
            [
                (kernel.symbol, timed.band, timed.schedule, timed.candidates,
                 round(timed.default_us, 1), round(timed.us, 1))
                for kernel, timed in outcome.timed
            ],
        )  # fmt: skip
    faster = sum(timed.us < timed.default_us for _, timed in outcome.timed)
    click.echo(
        f"{len(outcome.timed)} kernels timed, {faster} of them faster than their default; {outcome.known} were known"
    )
    if outcome.unsure:
        click.echo(f"{outcome.unsure} kernels keep their default: it does not agree with the reference on these values")
    if outcome.left:
        click.echo(f"the time is up: {outcome.left} kernels are left for the next run")
    if outcome.timed:
        click.echo(f"wrote {tuned_path(store.target)}; the next `laudc compile` takes what it holds")
