"""Give every operation the kernel that will do it: the tile that was timed on the device, when the lists hold about
what the expected rate puts there; else, of the first schedule that takes the work, the one predicted to be fastest.

The kernel stands in the node's meta under "kernel". What needs none: an element of several results, and a flatten
of a 1x1 map, which is another view of the same bytes. A torch operation that laudc has no op for, or an op that no
schedule takes, is a BuildError that names it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import fx

from laudc.defaults import DEFAULT_RATE
from laudc.errors import BuildError
from laudc.ops._masker import Masker
from laudc.passes.base import Pass
from laudc.program import Program, input_type, is_view, type_of, types_of
from laudc.schedules import Work
from laudc.targets import TARGETS, Target

if TYPE_CHECKING:
    from laudc.kernels.kernel import Tile
    from laudc.latency.constants import Calibration
    from laudc.latency.tuned import Tuned


@dataclass(frozen=True, kw_only=True)
class BindKernels(Pass):
    stage = "bind"

    target: Target = TARGETS["cpu"]
    preferred: Mapping[str, Tile] = field(default_factory=dict)
    """By node, the tiles to take where they are offered."""
    tuned: Tuned | None = field(default=None, repr=False)
    """What was timed on the device; None: nothing."""
    expected_rate: float = DEFAULT_RATE
    """Of every masker."""
    calibration: Calibration | None = field(default=None, repr=False)
    """What the tiles are chosen by; None: what the device has."""

    def run(self, program: Program) -> Program:
        from laudc.latency.network import lists_at
        from laudc.latency.search import calibrations, fastest_kernel

        calibration = calibrations(self.calibration)
        clone = program.clone()
        batch = input_type(clone).shape[0]
        cases = lists_at(clone, self.expected_rate)
        for node in clone.nodes:
            if not needs_no_kernel(clone, node):
                work, on = _work_of(clone, node), cases(node)
                timed = self.tuned.tile(work, batch, on) if self.tuned is not None else None
                wanted = (self.preferred.get(node.name), timed)
                node.meta["kernel"] = fastest_kernel(
                    work,
                    self.target,
                    batch=batch,
                    cases=on,
                    calibration=calibration,
                    preferred=[tile for tile in wanted if tile is not None],
                )
        return clone


def _work_of(program: Program, node: fx.Node) -> Work:
    """What the kernel does; the name that a masker's decisions go by is no part of it."""
    op = program.op(node)
    if op is None:
        what = getattr(node.target, "__name__", str(node.target))
        raise BuildError(
            f"%{node.name} is {what}, which laudc has no operation for",
            "replace it in the model, or add a file to laudc/ops/",
        )
    operands = tuple(type_of(value) for value in node.args[: len(op.spec.operands)])
    spec = op.unnamed if isinstance(op, Masker) else op.spec
    return Work(spec=spec, operands=operands, results=types_of(node))


def needs_no_kernel(program: Program, node: fx.Node) -> bool:
    """Whether nothing has to run for this node."""
    if node.op in ("placeholder", "output") or node.target is operator.getitem:
        return True
    return is_view(program, node)


PASS = BindKernels
