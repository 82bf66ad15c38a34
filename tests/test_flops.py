"""Executed multiply-accumulates: against a count by hand of what each convolution really has to compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import laudc
from laudc.dynamic_model import DynamicModel, mask_shapes
from laudc.flops import block_macs, static_macs
from laudc.ops.conv2d import Conv2d
from laudc.rates import stratified_masks
from laudc.testing import TinyNet, conditioned, conv_norm, random_images, random_masks_like

IMAGE = random_images(1, 3, 37, 45)


def _model(paradigm: str) -> DynamicModel:
    return laudc.transform(conditioned(TinyNet), IMAGE, paradigm=paradigm).eval()


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "spatial+channel"])
def test_everything_on_costs_what_the_static_block_costs_and_the_masker(paradigm: str) -> None:
    model = _model(paradigm)
    for block in block_macs(model.program, random_masks_like(model.program, rate=1.0, batch=3)):
        assert float(block.executed) == pytest.approx(block.dense + block.masker)


def test_static_macs_are_those_of_the_layers() -> None:
    model = _model("spatial")
    by_hand = 0
    shapes: dict[torch.nn.Module, torch.Size] = {}
    network = conditioned(TinyNet)
    hooks = [m.register_forward_hook(lambda m, _, out: shapes.__setitem__(m, out.shape)) for m in network.modules()]
    network(IMAGE)
    for module, shape in shapes.items():
        if isinstance(module, torch.nn.Conv2d):
            by_hand += shape[1:].numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            by_hand += module.weight.numel()
    assert len(hooks) > 0
    assert static_macs(model.program) == by_hand


@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel", "spatial+channel"])
def test_what_is_counted_is_what_the_lowered_network_computes(paradigm: str) -> None:
    """Counted from the lists that the lowered convolutions get: rows listed x channels listed, sample by sample."""
    from laudc import pipeline
    from laudc.program import block_of, program_for

    model = _model(paradigm)
    program = program_for(model.program, (3, 3, 37, 45))
    masks = random_masks_like(model.program, rate=0.4, batch=3)
    lowered, _ = pipeline.run(program, pipeline.lowering(without=["masker-conv", "gather-conv"]))
    counted: dict[str, float] = {}

    class Counter(torch.fx.Interpreter):
        def call_module(self, target: str, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]) -> object:
            op = self.fetch_attr(target)
            if isinstance(op, Conv2d):
                counted[block] = counted.get(block, 0.0) + _work(op, args)
            return super().call_module(target, args, kwargs)  # type: ignore[arg-type]

        def run_node(self, node: torch.fx.Node) -> object:
            nonlocal block
            block = block_of(node)
            return super().run_node(node)

    block = ""
    with torch.no_grad():
        Counter(lowered.graph).run(random_images(3, 3, 37, 45), masks)
    for found in block_macs(model.program, masks):
        assert float(found.executed) - found.masker == pytest.approx(counted[found.name] / 3, rel=1e-6)


def _work(op: Conv2d, args: tuple[torch.Tensor, ...]) -> float:
    """The multiply-accumulates of one call, from its lists."""
    spec, named = op.spec, dict(zip(op.spec.operands, args, strict=True))
    if spec.rows:
        listed = named["rows"]
        batch = 3
        rows = [int(listed[b + 1] - listed[b]) for b in range(batch)]
    else:
        batch, _, height, width = named["x"].shape
        rows = [spec.out_size(height, width)[0] * spec.out_size(height, width)[1]] * batch
    total = 0.0
    for b in range(batch):
        kept = int(named["channels"][b, 0]) if "channels" in named else 0
        inputs = kept * spec.channels_in if spec.channels_in else spec.in_channels
        outputs = kept * spec.channels_out if spec.channels_out else spec.out_channels
        groups = spec.groups if not spec.channels_in else max(spec.groups * inputs // spec.in_channels, 1)
        total += rows[b] * outputs * (inputs // groups if inputs else 0) * spec.taps
    return total


def test_a_convolution_that_carries_the_masker_counts_in_full() -> None:
    from laudc import pipeline
    from laudc.flops import masker_fused
    from laudc.passes.fuse_masker_conv import FuseMaskerConv
    from laudc.targets import TARGETS

    model = _model("spatial")
    passes = [
        FuseMaskerConv(target=TARGETS["h200"], expected_rate=1.0) if one.name == "fuse_masker_conv" else one
        for one in pipeline.lowering()
    ]
    fused = masker_fused(pipeline.run(model.program, passes)[0])
    assert fused
    masks = random_masks_like(model.program, rate=0.0, batch=1)
    for block in block_macs(model.program, masks, masker_fused=fused):
        assert (float(block.executed) > block.masker + 1) == (block.name in fused or _has_projection(model, block.name))


def _has_projection(model: DynamicModel, name: str) -> bool:
    return any(block.shortcut for block in model.program.blocks if block.name == name)


def test_channel_masks_that_run_dense_count_in_full() -> None:
    from laudc import pipeline

    model = laudc.transform(conditioned(TinyNet), IMAGE, paradigm="channel", granularity="1").eval()
    lowered, _ = pipeline.run(model.program, pipeline.lowering())
    dense = {refusal.where for refusal in lowered.refusals if "run dense" in refusal.reason}
    assert dense
    masks = random_masks_like(model.program, rate=0.0, batch=1)
    for block in block_macs(model.program, masks):
        if block.name in dense:
            assert float(block.executed) == pytest.approx(block.dense + block.masker)


class OneBlock(nn.Module):
    """A stem, and x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 16), nn.ReLU())
        self.branch = nn.Sequential(*branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        out: torch.Tensor = x + self.branch(x)
        return out


NORM_BEHIND = (nn.Conv2d(16, 16, 1), nn.ReLU(), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1))
GROUPED_EDGE = (conv_norm(16, 16, groups=4), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
USUAL = (conv_norm(16, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))


@pytest.mark.parametrize(("branch", "listed"), [(NORM_BEHIND, False), (GROUPED_EDGE, False), (USUAL, True)])
def test_channels_count_as_skipped_only_where_they_are_listed(branch: tuple[nn.Module, ...], listed: bool) -> None:
    from laudc import pipeline

    model = laudc.transform(
        conditioned(lambda: OneBlock(*branch)), random_images(1, 3, 9, 9), paradigm="channel"
    ).eval()
    assert (pipeline.run(model.program, pipeline.lowering())[0].refusals == ()) == listed
    for rate in (0.5, 0.0):
        masks = stratified_masks(mask_shapes(model.program, model.plan), batch=1, rate=rate, seed=0)
        (block,) = block_macs(model.program, masks)
        assert (float(block.executed) < block.dense) == listed
        if not listed:
            assert float(block.executed) == pytest.approx(block.dense + block.masker)


def test_the_cost_has_a_gradient_to_every_masker() -> None:
    model = _model("spatial+channel").train()
    model(random_images(4, 3, 37, 45))
    sum(block.executed for block in model.block_macs()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if "masker" in name and name.endswith(("bias", "bias2")):
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0, name


def test_a_mean_of_products_is_not_a_product_of_means() -> None:
    """Half of the samples keep everything, half nothing: a 3x3 between masked channels costs 1/2, not 1/4."""
    model = _model("channel")
    shapes = mask_shapes(model.program, model.plan)
    masks = {shape.key: torch.stack([torch.ones(shape.units), torch.zeros(shape.units)]) for shape in shapes}
    for block in block_macs(model.program, masks):
        assert float(block.executed) - block.masker >= 0.49 * block.dense
    even = stratified_masks(shapes, batch=2, rate=0.5, seed=0)
    total = sum(float(block.executed) for block in block_macs(model.program, even))
    assert total < sum(float(block.executed) for block in block_macs(model.program, masks))
