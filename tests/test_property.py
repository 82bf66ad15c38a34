"""Any residual network, any decisions: skipping computes what masking computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from laudc.capture import capture
from laudc.compare import relative_error
from laudc.passes.find_blocks import FindBlocks
from laudc.passes.insert_maskers import InsertMaskers
from laudc.pipeline import lowering, optional_passes, run
from laudc.plan import make_plan
from laudc.testing import conditioned, random_images, random_masks_like, run_overwriting, same_output

ACTIVATIONS: list[type[nn.Module]] = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid]
PARADIGMS = ["spatial", "layer", "channel", "spatial+layer", "spatial+channel", "layer+channel+spatial"]
WIDTHS = st.sampled_from([4, 8, 12])


class Block(nn.Module):
    """act(shortcut(x) + branch(x)), or without the act, or the two the other way round."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module, act: nn.Module, *, swapped: bool) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act, self.swapped = branch, shortcut, act, swapped

    def forward(self, x: Tensor) -> Tensor:
        branch, shortcut = self.branch(x), self.shortcut(x)
        out: Tensor = self.act(shortcut + branch if self.swapped else branch + shortcut)
        return out


@st.composite
def convolutions(draw: st.DrawFn, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """One that keeps the map lined up, with or without groups, dilation, bias and norm."""
    dilation = draw(st.integers(1, 2)) if kernel > 1 else 1
    groups = draw(st.sampled_from([1, 1, 2, 4])) if inputs == outputs else 1
    with_norm = draw(st.booleans())
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=draw(st.booleans())
    )
    return nn.Sequential(conv, nn.BatchNorm2d(outputs)) if with_norm else conv


@st.composite
def blocks(draw: st.DrawFn, inputs: int, outputs: int) -> nn.Module:
    """A basic block or a bottleneck, with whatever stride, kernel, activation and projection."""
    stride, width = draw(st.integers(1, 3)), draw(WIDTHS)
    kernel = draw(st.sampled_from([1, 3, 3, 5]))
    act = draw(st.sampled_from(ACTIVATIONS))
    if draw(st.booleans()):
        kernels, widths, strides = (kernel, 3), (inputs, width, outputs), (stride, 1)
    else:
        kernels, widths, strides = (1, kernel, 1), (inputs, width, width, outputs), (1, stride, 1)  # type: ignore[assignment]
    branch: list[nn.Module] = [nn.BatchNorm2d(inputs), act()] if draw(st.booleans()) else []
    for index, (size, step) in enumerate(zip(kernels, strides, strict=True)):
        branch += [draw(convolutions(widths[index], widths[index + 1], size, step)), act()]
    projected = stride > 1 or inputs != outputs or draw(st.booleans())
    shortcut = draw(convolutions(inputs, outputs, 1, stride)) if projected else nn.Identity()
    exit_act = draw(st.sampled_from([act, nn.ReLU, nn.Identity]))
    return Block(nn.Sequential(*branch[:-1]), shortcut, exit_act(), swapped=draw(st.booleans()))


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A stem, one to three blocks, a classifier."""
    width = draw(WIDTHS)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), draw(st.sampled_from(ACTIVATIONS))()]
    for _ in range(draw(st.integers(1, 3))):
        outputs = draw(WIDTHS)
        layers.append(draw(blocks(width, outputs)))
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def initialised(model: nn.Module) -> nn.Module:
    """The same model with weights drawn anew, so that an example is the same wherever it runs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    return model


def granularities(paradigm: str) -> st.SearchStrategy[str | None]:
    parts = {"spatial": st.integers(1, 9), "channel": st.sampled_from([1, 2, 4])}
    taken = [parts[name].map(str) for name in paradigm.split("+") if name in parts]
    return st.none() | st.tuples(*taken).map("+".join) if taken else st.none()


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    data=st.data(),
    network=networks(),
    size=st.tuples(st.integers(5, 17), st.integers(5, 17)),
    paradigm=st.sampled_from(PARADIGMS),
    rate=st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_skipping_computes_what_masking_computes_in_any_residual_network(
    data: st.DataObject, network: nn.Module, size: tuple[int, int], paradigm: str, rate: float, seed: int
) -> None:
    model = conditioned(lambda: initialised(network), size=size, seed=seed)
    x = random_images(3, 3, *size, seed=seed)
    found = FindBlocks().run(capture(model, x))
    assert found.refusals == ()
    plan = make_plan(found.blocks, paradigm=paradigm, granularity=data.draw(granularities(paradigm)), seed=seed)
    program = InsertMaskers(plan=plan).run(found)
    lowered, _ = run(program, lowering(without=data.draw(st.sets(st.sampled_from(optional_passes())))))
    masks = random_masks_like(program, rate=rate, batch=3, seed=seed)
    same_output(program, lowered, x, masks)
    with torch.no_grad():
        expected, _ = program(x, masks)
        assert relative_error(run_overwriting(lowered, x, masks), expected) <= 1e-5
        if rate == 1:
            assert relative_error(expected, model(x)) <= 1e-6
