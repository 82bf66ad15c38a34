"""`laudc predict`: what a network will take on a device, block by block, before it is trained or compiled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands import _options
from laudc.errors import InputError, UnknownName

if TYPE_CHECKING:
    from laudc.commands._asked import Question
    from laudc.commands._told import Report
    from laudc.latency.planner import Search
    from laudc.latency.prediction import BlockPrediction, Prediction
    from laudc.plan import Plan
    from laudc.program import Program

_SWEEPS = ("batch", "granularity", "rate")
_ABLATIONS = ("fusion",)
_COSTINGS = ("hardware", "paper")


@click.command("predict", short_help="Predict what a network takes on a device.", context_settings=_options.SETTINGS)
@click.argument("model", required=False)
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), help="A plan.toml; it names the model, too.")
@click.option("--target", help="A device that `laudc targets` lists, or a file.", show_default="this machine")
@click.option("--batch", type=click.IntRange(min=1), help="Images a call.", show_default="1")
@click.option("--rate", type=float, help="The share of units that are on.", show_default="0.5")
@click.option(
    "--paradigm",
    help="What is skipped: spatial, layer, channel, joined by +; auto: as planned.",
    show_default="spatial",
)
@click.option(
    "--granularity", help="One number, one a stage or one a block, such as 4-4-2-1.", show_default="by map size"
)
@_options.size("the model's own")
@click.option("--dtype", help="float32, float16, bfloat16 or tf32.", show_default="the target's")
@click.option("--costing", default="hardware", help="hardware; or paper, the published model of its five devices.")
@click.option("--sweep", metavar="AXIS", help="Draw the ratio against the rate, the granularity or the batch.")
@click.option("--ablate", metavar="WHAT", help="fusion: the time without each of the fusions.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The plot of a sweep, .png or .svg.",
    show_default="named here, without --json and --csv",
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="The numbers, for a spreadsheet.")
@_options.force
@_options.as_json
def _predict(
    model: str | None,
    plan_file: Path | None,
    target: str | None,
    batch: int | None,
    rate: float | None,
    paradigm: str | None,
    granularity: str | None,
    size: tuple[int, int] | None,
    dtype: str | None,
    costing: str,
    sweep: str | None,
    ablate: str | None,
    output: Path | None,
    csv_path: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Predict the time of MODEL on a device, static and dynamic, at a rate.

    MODEL is a network's name as in `laudc convert`, or a converted .laud file, whose plan then holds. With --plan the
    plan's own target, batch, size and rate hold where no option says otherwise. Weights do not matter.

    A break-even rate is for the tiles that are chosen at the rate asked for. The paper's costing prices the residual
    blocks alone, an image, at the published batch of its device.
    """
    from laudc.commands import _comparing, _paper_costing
    from laudc.commands._asked import asked_for, question_about
    from laudc.commands._told import Told
    from laudc.report.console import progress

    _check_options(sweep, ablate, output)
    told = Told(csv_path=csv_path, force=force, as_json=as_json)
    told.refuse_unwritable()
    if costing not in _COSTINGS:
        raise UnknownName.among("costing", costing, _COSTINGS)
    if costing == "paper":
        options = {"--plan": plan_file, "--sweep": sweep, "--ablate": ablate, "--batch": batch, "--dtype": dtype}
        _paper_costing.refuse([name for name, value in options.items() if value is not None])
        with progress("predicting"):
            priced = _paper_costing.price(
                model, target, paradigm=paradigm, granularity=granularity, size=size, rate=rate
            )
        told.write(priced)
        return
    drawn = sweep is not None and (output is not None or not (as_json or csv_path))
    plot = _comparing.plot_path(sweep, output, force) if sweep and drawn else None
    with progress("predicting") as now:
        asked = asked_for(
            model, plan_file, paradigm=paradigm, granularity=granularity, size=size, compare=sweep is not None
        )
        question = question_about(asked, target=target, dtype=dtype, batch=batch, size=size, rate=rate)
        if sweep:
            report = _comparing.sweep(question, sweep, plot, now)
        else:
            report = _comparing.ablation(question) if ablate else _prediction(question)
    told.tell(question, report)


COMMAND = _predict


def _check_options(sweep: str | None, ablate: str | None, output: Path | None) -> None:
    if sweep and ablate:
        raise InputError("a sweep and an ablation are two things", "ask for one at a time")
    if sweep is not None and sweep not in _SWEEPS:
        raise UnknownName.among("sweep", sweep, _SWEEPS)
    if ablate is not None and ablate not in _ABLATIONS:
        raise UnknownName.among("ablation", ablate, _ABLATIONS)
    if output is not None and sweep is None:
        raise InputError("-o names the plot of a sweep, and none was asked for", "give --sweep, or --csv for numbers")


def _prediction(question: Question) -> Report:
    from laudc.commands._told import Report, named
    from laudc.latency.prediction import Prediction, pair_of, predict
    from laudc.report.console import Json

    def make(program: Program, plans: Mapping[str, Plan], search: Search) -> dict[str, Any]:
        (plan,) = plans.values()
        return predict(pair_of(program, plan, search), search).to_json()

    found = Prediction.from_json(question.answer("prediction", make))
    low, high = question.calibration.interval
    columns = ("block", "decisions", "static_us", "dynamic_us", "ratio", "break_even_rate", "bound_by")
    blocks = [
        (one.block, one.decisions, one.static_us, one.dynamic_us, one.ratio, one.break_even, one.bound)
        for one in found.blocks
    ]
    facts: dict[str, Json] = {
        "size": list(found.size),
        "static_us": found.static_us,
        "static_us_interval": [low * found.static_us, high * found.static_us],
        "dynamic_us": found.dynamic_us,
        "dynamic_us_interval": [low * found.dynamic_us, high * found.dynamic_us],
        "outside_us": found.outside_us,
        "ratio": found.ratio,
        "slower": list(found.slower),
        "blocks": named(columns, blocks),
    }
    whole = ("whole network", "", found.static_us, found.dynamic_us, found.ratio, "", "")
    return Report(facts=facts, columns=columns, rows=[*blocks, whole], show=lambda: _show(question, found))


def _show(question: Question, found: Prediction) -> None:
    from laudc.commands._told import ms_words
    from laudc.report.console import table

    table(
        f"{question.words}, images of {'x'.join(map(str, found.size))}",
        ("block", "dynamic in", "static us", "dynamic us", "ratio", "break-even rate", "bound by"),
        [
            (one.block, one.decisions or "static", round(one.static_us, 1), round(one.dynamic_us, 1),
             round(one.ratio, 2), _even(one), one.bound)
            for one in found.blocks
        ],
    )  # fmt: skip
    click.echo(
        f"whole network, predicted: static {ms_words(found.static_us, question.calibration)}, "
        f"dynamic {ms_words(found.dynamic_us, question.calibration)}, {found.ratio:.2f} of static; "
        f"{found.outside_us / 1e3:.3g} ms of it outside the blocks"
    )
    if found.ratio > 1:
        click.echo("dynamic is predicted to be slower than static at this rate")
    if found.slower:
        click.echo(f"slower than static at this rate: {', '.join(found.slower)}")


def _even(one: BlockPrediction) -> str:
    """The break-even rate in a table; "always" and "never" where every rate gains or none, "" for a static block."""
    if not one.decisions:
        return ""
    if one.break_even is None:
        return "never"
    if one.break_even == 0:
        return "below 0.001"
    return "always" if one.break_even == 1 else f"{one.break_even:.2g}"
