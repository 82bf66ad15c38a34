"""`laudc convert`: a static network becomes one that can skip work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from laudc.commands import _options
from laudc.commands._facts import (
    RANDOM_MASKS,
    UNTRAINED,
    BlockFacts,
    block_facts,
    block_table,
    masker_digest,
    static_digest,
    weights_words,
)
from laudc.errors import CaptureError

if TYPE_CHECKING:
    from torch import Tensor

    from laudc.dynamic_model import DynamicModel
    from laudc.models import NamedModel
    from laudc.program import Refusal


@click.command("convert", short_help="Make a network dynamic.", context_settings=_options.SETTINGS)
@click.argument("model")
@click.option(
    "--paradigm",
    help="spatial, layer, channel, several joined by +, or auto.",
    show_default="spatial; auto with --target",
)
@click.option(
    "--granularity",
    help="One number, one a stage or one a block, such as 4-4-2-1.",
    show_default="as predicted fast",
)
@click.option("--target", help="Plan for this device, at --rate; what is predicted to gain nothing stays static.")
@click.option("--batch", type=click.IntRange(min=1), help="Images a call to plan for, with --target.", show_default="1")
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Obey a file that `laudc plan` wrote.")
@_options.rate
@click.option("--keep-first", is_flag=True, help="Leave the first block of each stage static.")
@_options.size("the model's own")
@_options.seed
@click.option("--pretrained/--no-pretrained", default=True, help="Look for pretrained weights, or take random ones.")
@_options.output
@_options.force
@click.option("--dry-run", is_flag=True, help="Only print; write nothing.")
@_options.as_json
def _convert(
    model: str,
    paradigm: str | None,
    granularity: str | None,
    target: str | None,
    batch: int | None,
    plan_path: Path | None,
    rate: float | None,
    keep_first: bool,
    size: tuple[int, int] | None,
    seed: int,
    pretrained: bool,
    output: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make MODEL dynamic, and write NAME-PARADIGM.laud here.

    MODEL is a name of torchvision (resnet50) or timm (timm/resnet50), or a class in a file of your own
    (path/net.py:Net, called without arguments, which becomes net-PARADIGM.laud).
    """
    from laudc.report.console import progress
    from laudc.targets import load_target
    from laudc.whole_file import refuse_unwritable

    with progress(f"opening {model}", after_s=0) as now:  # before torch is imported, which may take seconds
        from laudc.artifact import save
        from laudc.convert import convert, settled_paradigm, unknown_operations
        from laudc.models import OWN, RANDOM, check_name, condition_random, file_stem, open_model
        from laudc.plan import check_rate
        from laudc.plan_file import read_plan

        chosen = None if plan_path is None else read_plan(plan_path)
        settled = settled_paradigm(
            paradigm=paradigm, granularity=granularity, target=target, batch=batch, chosen=chosen
        )
        device = None if target is None else load_target(target)
        if rate is not None:
            check_rate(rate)
        check_name(model)
        path = output or Path(f"{file_stem(model)}-{settled}.laud")
        if not dry_run:
            refuse_unwritable(path, force)
        named = open_model(model, seed=seed, pretrained=pretrained)
        if named.note:
            click.echo(named.note, err=True)
        now(f"converting {model}")
        dynamic = convert(
            named.module,
            _example(named, size or (chosen.basis.size if chosen else None)),
            paradigm=paradigm,
            granularity=granularity,
            rate=rate,
            keep_first=keep_first,
            target=device,
            batch=batch,
            seed=seed,
            source=named.source,
            chosen=chosen,
        )
        kinds = unknown_operations(dynamic.program)
        if kinds:
            raise CaptureError(
                f"{model} holds what laudc has no operation for: {kinds}",
                "convert a network without it, or add a file to laudc/ops/",
            )
        made = {"maskers_as_made": masker_digest(dynamic.program)}
        if named.source["weights"] == RANDOM:
            condition_random(dynamic.program)
            made["weights_as_made"] = static_digest(dynamic.program)
        dynamic.program = replace(dynamic.program, source={**dynamic.program.source, **made})
        if not dry_run:
            now(f"writing {path}")
            save(path, dynamic, force=force)
    if named.source["weights"] == OWN and size is None:
        height, width = named.preprocessing.size
        click.echo(f"assumed {height}x{width}; --size for another", err=True)
    if all(block.out_size == (1, 1) for block in dynamic.program.blocks):
        click.echo("every map is 1x1 at this size, one patch a block; --size for a larger one", err=True)
    _report(dynamic, None if dry_run else path, as_json=as_json)


COMMAND = _convert


def _example(named: NamedModel, size: tuple[int, int] | None) -> Tensor:
    import torch

    from laudc.convert import example_for

    channels = example_for(named.module).shape[1]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, *(size or named.preprocessing.size), generator=generator)


def _report(dynamic: DynamicModel, path: Path | None, *, as_json: bool) -> None:
    from laudc.dynamic_model import example_shape
    from laudc.report.console import print_json

    program, plan = dynamic.program, dynamic.plan
    facts, refusals = block_facts(program, plan), program.refusals
    if as_json:
        print_json(
            {
                "file": None if path is None else str(path),
                "model": program.source["model"],
                "library": program.source["library"],
                "weights": program.source["weights"],
                "paradigm": plan.paradigm,
                "rate": plan.rate,
                "made_for": None if plan.made_for is None else asdict(plan.made_for),
                "seed": plan.seed,
                "input": list(example_shape(program)),
                "blocks": [asdict(one) for one in facts],
                "refused": [asdict(refusal) for refusal in refusals],
                "static_mmacs": round(dynamic.static_macs() / 1e6, 3),
                "maskers": "untrained",
            }
        )
        return
    _print(dynamic, facts, refusals)
    click.echo(f"wrote {path}" if path else "a dry run: nothing was written")


def _print(dynamic: DynamicModel, facts: list[BlockFacts], refusals: Sequence[Refusal]) -> None:
    from laudc.dynamic_model import example_shape
    from laudc.report.console import table

    program, plan = dynamic.program, dynamic.plan
    able = [one for one in facts if one.dynamic_in]
    block_table(f"{program.source['model']}, {plan.paradigm}: {len(able)} of {len(facts)} blocks can skip work", facts)
    if refusals:
        table("left static", ("where", "why"), [(refusal.where, refusal.reason) for refusal in refusals])
    share = 100 * sum(one.share for one in able)
    height, width = example_shape(program)[2:]
    mmacs = dynamic.static_macs() / 1e6
    click.echo(f"{mmacs:.0f} MMACs an image of {height}x{width}, {share:.0f}% of them in blocks that can skip")
    click.echo(f"weights: {weights_words(program)}")
    if plan.keep_first:
        click.echo("the first block of each stage stays static")
    click.echo(UNTRAINED if plan.rate is None else f"{RANDOM_MASKS} at rate {plan.rate:g} stand in for the maskers")
