"""Dropout does nothing outside training: its readers read what it reads."""

from __future__ import annotations

from dataclasses import dataclass

from laudc.passes.base import Pass
from laudc.program import Program


@dataclass(frozen=True, kw_only=True)
class DropDropout(Pass):
    def run(self, program: Program) -> Program:
        if not any(op.spec.name == "dropout" for _, op in program.ops()):
            return program
        clone = program.clone()
        for node, op in list(clone.ops()):
            if op.spec.name == "dropout":
                node.replace_all_uses_with(node.all_input_nodes[0])
        return clone.finished()


PASS = DropDropout
