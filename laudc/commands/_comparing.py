"""What `laudc predict` compares: a sweep along one axis, drawn and tabulated, or the network without its fusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from laudc.commands._told import Report, named
from laudc.errors import InputError

if TYPE_CHECKING:
    from laudc.commands._asked import Question
    from laudc.latency.ablation import Ablated
    from laudc.latency.planner import Search
    from laudc.latency.sweeps import Point
    from laudc.plan import Plan
    from laudc.program import Program
    from laudc.report.console import Json

_LABELS = {"rate": "rate", "granularity": "granularity", "batch": "images a call"}


def plot_path(axis: str, output: Path | None, force: bool) -> Path:
    """Where the plot of a sweep goes. InputError, StorageError or ToolchainError if it cannot."""
    from laudc.report.plots import check_plot
    from laudc.whole_file import refuse_unwritable

    path = output or Path(f"predict-{axis}.png")
    check_plot(path)
    refuse_unwritable(path, force)
    return path


def sweep(question: Question, axis: str, path: Path | None, now: Callable[[str], None]) -> Report:
    """Predictions along an axis; the plot is written where one is wanted. now: renames what progress shows."""
    from laudc.latency.sweeps import Point
    from laudc.whole_file import write_whole

    if axis == "granularity" and question.asked.fixed:
        raise InputError(f"{question.asked.name} has its granularity already", "sweep over it with a network's name")
    answer = question.answer(f"sweep over {axis}", lambda *found: {"points": _swept(axis, now, *found)})
    points = [Point(**one) for one in answer["points"]]
    if path is not None:
        drawn = _drawn(question, axis, points, path.suffix)
        write_whole(path, lambda file: file.write(drawn))

    def show() -> None:
        _show_sweep(question, axis, points)
        if path is not None:
            click.echo(f"wrote {path}")

    columns = ("panel", "line", axis, "static_us", "dynamic_us", "ratio")
    rows = [(one.panel, one.line, one.x, one.static_us, one.dynamic_us, one.ratio) for one in points]
    return Report(
        facts={"sweep": axis, "plot": None if path is None else str(path), "points": named(columns, rows)},
        columns=columns,
        rows=rows,
        show=show,
    )


def _swept(
    axis: str, now: Callable[[str], None], program: Program, plans: Mapping[str, Plan], search: Search
) -> list[dict[str, Any]]:
    from laudc.latency.sweeps import batch_sweep, granularity_sweep, rate_sweep
    from laudc.report.console import bar

    def tell(ready: int, total: int) -> None:
        now(bar(f"predicting over the {axis}", ready, total))

    if axis == "granularity":
        points = granularity_sweep(program, search, tell)
    else:
        points = (rate_sweep if axis == "rate" else batch_sweep)(program, plans, search, tell)
    return [asdict(point) for point in points]


def _panels(points: Sequence[Point]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points (x, ratio) by panel and line."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for one in points:
        panels.setdefault(one.panel, {}).setdefault(one.line, []).append((one.x, one.ratio))
    return panels


def _drawn(question: Question, axis: str, points: Sequence[Point], suffix: str) -> bytes:
    from laudc.report.plots import ratio_plot

    return ratio_plot(
        suffix,
        f"{_title(question, axis)}, {question.calibration.words}",
        _panels(points),
        x_label=_LABELS[axis],
        y_label="dynamic / static",
        log_x=axis != "rate",
    )


def _title(question: Question, axis: str) -> str:
    at = {"batch": f"batch {question.batch}", "rate": f"rate {question.rate:g}"}
    held = ", ".join(words for name, words in at.items() if name != axis)
    return f"{question.asked.name} on {question.target.title}: {held}, {question.dtype}"


def _show_sweep(question: Question, axis: str, points: Sequence[Point]) -> None:
    """The ratios of the whole network where it was swept, else those of every panel."""
    from laudc.latency.sweeps import NETWORK
    from laudc.report.console import table

    panels = _panels(points)
    for name, lines in panels.items():
        if NETWORK in panels and name != NETWORK:
            continue
        ratios = {label: dict(found) for label, found in lines.items()}
        every = sorted({x for found in ratios.values() for x in found})
        table(
            f"{_title(question, axis)}; dynamic / static, {name}",
            (_LABELS[axis], *ratios),
            [(f"{x:g}", *(round(found[x], 2) if x in found else "" for found in ratios.values())) for x in every],
        )


def ablation(question: Question) -> Report:
    """The time without each fusion."""
    from laudc.latency.ablation import Ablated, ablate_fusion

    def make(program: Program, plans: Mapping[str, Plan], search: Search) -> dict[str, Any]:
        (plan,) = plans.values()
        return {"cases": [asdict(case) for case in ablate_fusion(program, plan, search)]}

    cases = [Ablated(**case) for case in question.answer("fusions", make)["cases"]]
    fused = cases[0]
    told: list[dict[str, Json]] = [{**asdict(one), "of_fused": one.dynamic_us / fused.dynamic_us} for one in cases]
    return Report(
        facts={"cases": told},
        columns=("without", "block", "dynamic_us", "of_fused"),
        rows=[
            (one.without, block, us, us / whole)
            for one in cases
            for block, us, whole in [
                ("whole network", one.dynamic_us, fused.dynamic_us),
                *((name, us, fused.blocks_us[name]) for name, us in one.blocks_us.items()),
            ]
        ],
        show=lambda: _show_ablation(question, cases),
    )


def _show_ablation(question: Question, cases: Sequence[Ablated]) -> None:
    from laudc.report.console import table

    fused = cases[0]
    table(
        question.words,
        ("without", "dynamic us", "of fused"),
        [(one.without, round(one.dynamic_us, 1), round(one.dynamic_us / fused.dynamic_us, 2)) for one in cases],
    )
