# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="name-defined"
# The functions below are TVMScript: TVM reads their text, Python never runs them.
"""What a kernel does before the one ahead of it is done: let the next one be placed, and bring its weights to L2.

The blocks that share a panel of weights share the lines of it, up to `SHARERS` of them.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

SHARERS = 8
LINE = 64
"""float16 numbers in 128 bytes."""

_PREFETCH = """
__device__ __forceinline__ void prefetch_line(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" :: "l"(at));
}
"""


def wait_with_weights(*, rows: int, depth: int, steps: int, threads: int) -> Any:
    """The inline function that asks for `rows` rows of the weights, `steps` lines of each, and waits for the kernel
    ahead. depth: numbers in a row."""

    @T.inline
    def wait(weight_flat, first_row, first_step, sharer, sharers, thread):
        T.ptx.griddepcontrol.launch_dependents()
        if sharer < sharers:
            for turn in T.serial(T.truncdiv(rows * steps + threads * sharers - 1, threads * sharers)):
                line: T.let = (turn * sharers + sharer) * threads + thread
                row: T.let = T.truncdiv(line, steps)
                if row < rows:
                    T.cuda.func_call(
                        "prefetch_line",
                        weight_flat.ptr_to([(first_row + row) * depth + (first_step + T.truncmod(line, steps)) * LINE]),
                        source_code=_PREFETCH,
                    )
        T.ptx.griddepcontrol.wait()

    return wait
