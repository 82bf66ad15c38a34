"""Make the planned blocks dynamic: a masker behind each entry, the mask where it acts. Dense and masked, trainable.

    %y = conv3(...)                %m = patch_masker(%x)      %y = conv3(...)
    %z = add(%y, %x)      ->       %z = add(mask_rows(%y, %m), %x)

The program gets a second input, `masks` (decisions by name that replace the maskers' own, or None), and a second
result, every masker's decisions and keep logits by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from laudc.errors import PlanError
from laudc.paradigms import PARADIGMS
from laudc.passes.base import Pass, refused
from laudc.plan import Plan
from laudc.program import Program


@dataclass(frozen=True, kw_only=True)
class InsertMaskers(Pass):
    stage = "convert"
    after = ("find_blocks",)

    plan: Plan

    def run(self, program: Program) -> Program:
        known = {block.name for block in program.blocks}
        for decision in self.plan.decisions:
            if decision.block not in known:
                raise PlanError(
                    f"the plan names the block {decision.block!r}, which the network lacks",
                    "make a plan for this network",
                )
        clone = program.clone()
        graph = clone.graph.graph
        image = next(iter(graph.nodes))
        with graph.inserting_after(image):
            graph.placeholder("masks", default_value=None)
        output = graph.output_node()
        output.args = ((output.args[0], {}),)
        generator = torch.Generator().manual_seed(self.plan.seed)
        for block in clone.blocks:
            for decision in self.plan.of(block.name):
                way = PARADIGMS[decision.paradigm]
                way.insert(clone, block, decision.granularity, decision.key, generator)
        return refused(clone.finished(), *self.plan.refusals)


PASS = InsertMaskers
