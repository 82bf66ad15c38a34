"""`laudc targets`: the devices that laudc has facts about, and what compiles for each on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

import click

from laudc.kernels.toolchain import CudaCompiler, Missing, find_compiler
from laudc.targets import TARGETS, Target

_WIDE = 200  # characters, where no terminal sets a width
_LLVM = "LLVM, in TVM"


@click.command("targets", short_help="List the devices that can be compiled for.")
@click.option("--json", "as_json", is_flag=True, help="Every fact, as JSON.")
def _list_targets(as_json: bool) -> None:
    """List the devices that can be compiled for, their peaks, and the compiler that is here for each.

    A device of your own is a TOML file like those in laudc/targets; pass its path as --target.
    """
    targets = list(TARGETS.values())
    if as_json:
        click.echo(json.dumps([_record(target) for target in targets], indent=2))
    else:
        _print_table(targets)


COMMAND = _list_targets


def _record(target: Target) -> dict[str, object]:
    compiler = _compiler(target)
    missing = str(compiler) if isinstance(compiler, Missing) else None
    return {
        **asdict(target),
        "content_hash": target.content_hash,
        "fp32_tflop_per_s": target.fp32_tflop_per_s,
        "tensor_fp16_tflop_per_s": target.tensor_fp16_tflop_per_s,
        "compiler": None if missing else str(compiler),
        "missing": missing,
    }


def _compiler(target: Target) -> str | CudaCompiler | Missing:
    return _LLVM if target.kind == "cpu" else find_compiler(target.arch)


def _print_table(targets: Iterable[Target]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("target", "device", "arch", box=None, pad_edge=False, header_style="bold")
    for heading in ("SMs", "MHz", "fp32 TFLOP/s", "fp16 tensor TFLOP/s", "GB/s"):
        table.add_column(heading, justify="right")
    for heading in ("default", "compiler here"):
        table.add_column(heading)
    for target in targets:
        compiler = _compiler(target)
        here = f"missing: {compiler.how_to_get}" if isinstance(compiler, Missing) else str(compiler)
        words = (target.name, target.title, target.arch, *_peaks(target), target.default_dtype, here)
        table.add_row(*map(escape, words))
    console = Console()
    Console(width=None if console.is_terminal else _WIDE).print(table)


def _peaks(target: Target) -> tuple[str, ...]:
    if target.kind == "cpu":
        return ("detected", "", "", "", "")
    tensor = f"{target.tensor_fp16_tflop_per_s:.0f}" if target.tensor_fp16_tflop_per_s else "none"
    return (
        str(target.sm_count),
        f"{target.clock_mhz:.0f}",
        f"{target.fp32_tflop_per_s:.3g}",
        tensor,
        f"{target.dram_gb_per_s:g}",
    )
