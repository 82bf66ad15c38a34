# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""What a tensor-core kernel does before the one ahead of it is done, on chips that can (sm_90 on).

lets the next one be placed      at once; on samples only after its own wait, and where it decides when the list is
                                 written, so that the next one may look at that and at whatever was made before this
                                 one (`passes/settle.py`)
brings its weights to L2         each line by one of up to `SHARERS` blocks that read it
where its rows are known by then: its table of rows, the first stages of its weights, and its residual on samples
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from laudc.schedules._cuda_problem import Problem
from laudc.schedules._cuda_tiles import TensorTile

SHARERS = 8

_PREFETCH = """
__device__ __forceinline__ void prefetch_line(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" :: "l"(at));
}
"""


def rows_known(p: Problem, tile: TensorTile) -> bool:
    """Whether a block knows its rows before the kernel ahead is done."""
    return tile.overlapping and tile.blocks == 0 and (not p.rows or p.settled)


def reads_ahead(p: Problem, tile: TensorTile) -> bool:
    """Whether it also copies before it waits."""
    return rows_known(p, tile) and tile.eager == 1


def announce(p: Problem, tile: TensorTile) -> Any:
    """The inline function that a kernel begins with."""
    at_once = tile.overlapping and not p.samples

    @T.inline
    def begin():
        if at_once:
            T.ptx.griddepcontrol.launch_dependents()

    return begin


def wait_for_ahead(p: Problem, tile: TensorTile) -> Any:
    """The inline function behind which all that other kernels made is there."""

    @T.inline
    def wait():
        if tile.overlapping:
            T.ptx.griddepcontrol.wait()
            if p.samples and p.deciding == 0:
                T.ptx.griddepcontrol.launch_dependents()

    return wait


def weights_to_l2(p: Problem, tile: TensorTile, *, steps: int) -> Any:
    """The inline function that asks for a panel of the weights, `steps` lines of each row."""
    rows, threads, depth, line_numbers = tile.bn, tile.threads, p.depth, p.step

    @T.inline
    def ask(weight_flat, first_row, first_step, sharer, sharers, thread):
        if tile.overlapping and sharer < sharers:
            for turn in T.serial(T.truncdiv(rows * steps + threads * sharers - 1, threads * sharers)):
                line: T.let = (turn * sharers + sharer) * threads + thread
                row: T.let = T.truncdiv(line, steps)
                if row < rows:
                    T.cuda.func_call(
                        "prefetch_line",
                        weight_flat.ptr_to(
                            [(first_row + row) * depth + (first_step + T.truncmod(line, steps)) * line_numbers]
                        ),
                        source_code=_PREFETCH,
                    )

    return ask
