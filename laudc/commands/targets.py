"""`laudc targets`: the devices that laudc has facts about, and what compiles for each on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from laudc.commands import _options
from laudc.kernels.toolchain import CudaCompiler, Missing, find_compiler
from laudc.targets import TARGETS, Target

_LLVM = "LLVM, in TVM"


@click.command("targets", short_help="List the devices that can be compiled for.")
@_options.as_json
def _list_targets(as_json: bool) -> None:
    """List the devices that can be compiled for, their peaks, and the compiler that is here for each.

    A device of your own is a TOML file like those in laudc/targets; pass its path as --target.
    """
    targets = list(TARGETS.values())
    if as_json:
        from laudc.report.console import print_json

        print_json([_record(target) for target in targets])
    else:
        _print_table(targets)


COMMAND = _list_targets


def _record(target: Target) -> dict[str, Any]:
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
    from laudc.report.console import table

    rows, compilers = [], dict[str, list[str]]()
    for target in targets:
        compiler = _compiler(target)
        here = f"missing: {compiler.how_to_get}" if isinstance(compiler, Missing) else str(compiler)
        compilers.setdefault(here, []).append(target.name)
        title = target.title.removeprefix("NVIDIA ").removeprefix("GeForce ").removeprefix("The ")
        rows.append((target.name, title, target.arch, *_peaks(target), target.default_dtype))
    columns = ("target", "device", "arch", "fp32", "fp16", "GB/s", "default")
    table("targets, with TFLOP/s in fp32 and of fp16 tensor cores", columns, rows)
    table("compilers here", ("compiler", "for"), [(here, ", ".join(names)) for here, names in compilers.items()])


def _peaks(target: Target) -> tuple[str, str, str]:
    if target.kind == "cpu":
        return "", "", ""
    tensor = f"{target.tensor_fp16_tflop_per_s:.0f}" if target.tensor_fp16_tflop_per_s else "none"
    return f"{target.fp32_tflop_per_s:.3g}", tensor, f"{target.dram_gb_per_s:g}"
