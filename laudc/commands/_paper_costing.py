"""`laudc predict --costing paper`: the published model's picture of a network on one of its five devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from laudc.commands._told import Report, named
from laudc.defaults import DEFAULT_RATE
from laudc.errors import InputError

if TYPE_CHECKING:
    from laudc.latency.paper import PaperBlock
    from laudc.report.console import Json

    _Chosen = tuple[str, PaperBlock, tuple[str, int] | None]
    """A block with its name and what it skips; None: it stays static."""

_PARADIGM = "spatial"
_REGNET_SIZE = (224, 224)
_COLUMNS = ("block", "decisions", "static_ms", "dynamic_ms", "ratio")


def refuse(options: Sequence[str]) -> None:
    """InputError for options that only the hardware costing takes."""
    if options:
        raise InputError(f"the paper's costing takes no {' and no '.join(options)}", "ask without")


def price(
    model: str | None,
    target: str | None,
    *,
    paradigm: str | None,
    granularity: str | None,
    size: tuple[int, int] | None,
    rate: float | None,
) -> Report:
    """Milliseconds an image in every residual block, static and dynamic."""
    from laudc.latency.paper import dynamic_us, paper_device, paper_devices, static_us
    from laudc.plan import check_rate

    if model is None:
        raise InputError("there is nothing to predict", "name a network")
    if target is None:
        raise InputError(
            "the paper's costing does not know this machine", f"give --target {' or '.join(paper_devices())}"
        )
    device = paper_device(target)
    checked = check_rate(DEFAULT_RATE if rate is None else rate)
    rows = []
    for name, block, skipped in _chosen(model, paradigm or _PARADIGM, granularity, size):
        static = static_us(block, device) / 1e3
        dynamic = dynamic_us(block, device, *skipped, checked) / 1e3 if skipped else static
        words = " ".join(str(part) for part in skipped if part) if skipped else ""
        rows.append((name, words, static, dynamic, dynamic / static))
    static, dynamic = sum(row[2] for row in rows), sum(row[3] for row in rows)
    skips = " ".join([paradigm or _PARADIGM, *([granularity] if granularity else [])])
    facts: dict[str, Json] = {
        "model": model,
        "skips": skips,
        "costing": "paper",
        "target": device.name,
        "batch": device.batch,
        "rate": checked,
        "static_ms": static,
        "dynamic_ms": dynamic,
        "ratio": dynamic / static,
        "blocks": named(_COLUMNS, rows),
    }

    def show() -> None:
        from laudc.report.console import table

        table(
            f"{model}, {skips}, on the paper's {device.name}: batch {device.batch}, rate {checked:g}; ms an image",
            ("block", "dynamic in", "static ms", "dynamic ms", "ratio"),
            [
                (name, words or "static", *(_three(ms) for ms in times), round(ratio, 2))
                for name, words, *times, ratio in rows
            ],
        )
        click.echo(
            f"residual blocks, by the paper's model: static {static:.3g} ms, dynamic {dynamic:.3g} ms an image, "
            f"{dynamic / static:.2f} of static"
        )

    every = [*rows, ("residual blocks", "", static, dynamic, dynamic / static)]
    return Report(
        facts=facts,
        columns=(*_COLUMNS, "target", "costing"),
        rows=[(*row, device.name, "paper") for row in every],
        show=show,
    )


def _three(ms: float) -> float:
    """To three significant digits."""
    return float(f"{ms:.3g}")


def _chosen(model: str, paradigm: str, granularity: str | None, size: tuple[int, int] | None) -> list[_Chosen]:
    from laudc.commands._planning import wanted_network
    from laudc.latency.paper import blocks_of
    from laudc.plan import make_plan

    if model.startswith("regnet_y_"):
        return _regnet(model, paradigm, granularity, size)
    program = wanted_network(model, size)
    plan = make_plan(program.blocks, paradigm=paradigm, granularity=granularity)
    skipped = {one.block: (paradigm, one.granularity) for one in plan.decisions}
    blocks = zip(program.blocks, blocks_of(program), strict=True)
    return [(block.name, priced, skipped.get(block.name)) for block, priced in blocks]


def _regnet(model: str, paradigm: str, granularity: str | None, size: tuple[int, int] | None) -> list[_Chosen]:
    """The two RegNets of the paper, which laudc cannot convert, by their published numbers."""
    from laudc.latency.paper import regnet_y
    from laudc.plan import parse_granularity, parse_paradigms

    blocks = regnet_y(model)
    if size not in (None, _REGNET_SIZE):
        raise InputError(f"{model} is known at 224 x 224 alone", "leave --size out")
    stages = 1 + blocks[-1].stage
    ways = parse_paradigms(paradigm)
    numbers = parse_granularity(granularity, ways).get(paradigm, [0] if not ways[paradigm].takes_granularity else [])
    if len(numbers) not in (1, stages):
        raise InputError(
            f"{model} needs its granularity: 1 number or {stages}, one a stage",
            "give one, such as --granularity 4-4-2-1",
        )
    by_stage = numbers * stages if len(numbers) == 1 else numbers
    return [(f"block{index}", block, (paradigm, by_stage[block.stage])) for index, block in enumerate(blocks)]
