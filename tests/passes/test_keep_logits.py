"""Runs of layers on whole samples: convolutions add up what their maps are worth to the maskers that come."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from laudc import pipeline
from laudc.compiled import passes_for
from laudc.convert import convert
from laudc.models import condition_random
from laudc.ops._running import UNITS
from laudc.ops.conv2d import Conv2d
from laudc.ops.deciding_conv2d import LISTED, MASK, RUNNING, DecidingConv2d
from laudc.ops.patch_masker import PatchMasker
from laudc.ops.zero_sums import ZeroSums
from laudc.program import Program, program_for
from laudc.targets import TARGETS
from laudc.testing import random_images, random_masks_like, run_overwriting, same_output

SHAPE = (3, 3, 96, 96)
BLOCKS = (4, 2, 3, 2)


@cache
def network(*, keep_first: bool = True, dtype: str = "float16", mixed: bool = False) -> Program:
    """A small ResNet of bottlenecks, typed; stage 4 has maps of 3 x 3. mixed: its own decisions are on and off."""
    from torchvision.models.resnet import Bottleneck, ResNet

    torch.manual_seed(0)
    net = ResNet(Bottleneck, list(BLOCKS)).eval()
    dynamic = convert(net, random_images(*SHAPE), paradigm="layer", keep_first=keep_first)
    condition_random(dynamic.program)
    program = program_for(dynamic.program, SHAPE, dtype=dtype)
    with torch.no_grad():
        logits = {key: found for key, (_, found) in program(random_images(*SHAPE, seed=3))[1].items()}
        for _, op in program.ops():
            if mixed and isinstance(op, PatchMasker):
                op.bias[1] += logits[op.key].quantile(0.25)
    return program


@cache
def lowered(*, without: tuple[str, ...] = (), target: str = "h200", **how: Any) -> Program:
    return pipeline.run(network(**how), passes_for(TARGETS[target], None, without))[0]


def test_nothing_changes_but_who_adds_up() -> None:
    """By the reference, and with every buffer really written where the update in place writes."""
    before, after = lowered(without=("keep-logits", "keep-sums", "whole-samples")), lowered()
    x = random_images(*SHAPE)
    for rate in (0.0, 0.4, 1.0):
        masks = random_masks_like(network(), rate=rate, batch=SHAPE[0], seed=int(10 * rate))
        same_output(before, after, x, masks)
        with torch.no_grad():
            expected = after(x, masks)[0]
        torch.testing.assert_close(run_overwriting(after, x.clone(), masks), expected)


def test_own_decisions_are_those_of_maskers_that_look_at_the_map() -> None:
    x = random_images(*SHAPE, seed=3)
    with torch.no_grad():
        seen, run = (program(x)[1] for program in (network(mixed=True), lowered(mixed=True)))
    assert seen.keys() == run.keys()
    for key, (mask, logits) in seen.items():
        torch.testing.assert_close(run[key][1], logits, rtol=1e-4, atol=2e-6)
        clear = logits.abs() > 1e-5
        assert torch.equal(run[key][0][clear], mask[clear])
    assert 0 < sum(float(mask.mean()) for mask, _ in seen.values()) < len(seen)


def test_a_skipped_map_keeps_its_logits_and_what_is_on_begins_anew() -> None:
    after = lowered()
    masks = random_masks_like(after, rate=0.5, batch=SHAPE[0])
    values: dict[fx.Node, Any] = {}

    class Watch(fx.Interpreter):
        def run_node(self, node: fx.Node) -> object:
            values[node] = super().run_node(node)
            return values[node]

    with torch.no_grad():
        Watch(after.graph).run(random_images(*SHAPE), masks)
    worth = {op.key: op for _, op in network().ops() if isinstance(op, PatchMasker)}
    keys = [op.key for _, op in after.ops() if isinstance(op, DecidingConv2d)]
    checked = 0
    for node, op in after.ops():
        if not isinstance(op, DecidingConv2d):
            continue
        x, running, _ = node.args
        assert isinstance(running, fx.Node)
        of_stage = [key for key in keys if key[:6] == op.key[:6]]
        assert of_stage.index(op.key) == int(op.turn)
        for column, key in enumerate(of_stage[int(op.turn) :], int(op.turn)):
            keep, drop = worth[key].weight
            wanted = values[x].double().mean((2, 3)) @ (keep - drop).double()
            torch.testing.assert_close(values[running][:, column].double() / UNITS, wanted, rtol=1e-4, atol=1e-5)
            checked += 1
        on = values[node][MASK].flatten() != 0
        assert torch.equal(values[node][LISTED][1 : 1 + int(on.sum())], on.nonzero().flatten().int())
        behind = values[node][RUNNING][:, int(op.turn) + 1 :]
        assert torch.equal(behind[~on], values[running][~on][:, int(op.turn) + 1 :])
        assert not behind[on].any()
    assert checked == 3 + 2 + 1 + 1 + 2 + 1


def test_a_run_begins_at_nothing_and_its_kernels_are_alike() -> None:
    after = lowered()
    specs = [op.spec for _, op in after.ops() if isinstance(op, Conv2d) and op.spec.running]
    assert [spec.running for spec in specs] == [3, 3, 3, 1, 2, 2]
    assert len({str(spec) for spec in specs if spec.running == 3 and spec.samples}) == 1
    assert all(spec.listed and spec.settled for spec in specs if spec.samples)
    assert [op.spec.channels for _, op in after.ops() if isinstance(op, ZeroSums)] == [3, 1, 2]
    names = [op.spec.name for _, op in after.ops()]
    assert names.count("deciding_conv2d") == 6
    assert names.count("sums_masker") == 1  # in stage 4, whose maps are too small for a convolution to add them up


def test_where_first_blocks_may_be_skipped_sums_stay() -> None:
    names = {op.spec.name for _, op in lowered(keep_first=False).ops()}
    assert "sums_masker" in names
    assert "deciding_conv2d" not in names


@pytest.mark.parametrize(("dtype", "target"), [("float32", "h200"), ("float16", "jetson-tx2"), ("float32", "cpu")])
def test_without_kernels_for_it_maskers_look_at_the_map(dtype: str, target: str) -> None:
    names = {op.spec.name for _, op in lowered(dtype=dtype, target=target).ops()}
    assert "deciding_conv2d" not in names


def test_trained_weights_are_taken_as_they_are() -> None:
    """What a map is worth to a masker is that masker's own weights, of the last convolution none is left."""
    after = lowered()
    scales: list[Tensor] = [op.running_scale for _, op in after.ops() if isinstance(op, Conv2d) and op.spec.running]
    assert all(isinstance(scale, nn.Parameter) for scale in scales)
    first, second, third = scales[:3]
    assert torch.equal(first[1:], second[1:])
    assert torch.equal(second[2:], third[2:])
    assert not second[:1].any()
    assert not third[:2].any()
    assert third[2:].any()
