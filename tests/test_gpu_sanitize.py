"""scripts/gpu_sanitize.py: how it reads a sanitizer, and that values apart give the usual output."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import laudc
from laudc.convert import convert
from laudc.models import condition_random
from laudc.rates import stratified_masks
from laudc.testing import tiny

SAID = """\
========= COMPUTE-SANITIZER
STEP usual-calls
STEP lists row_list_56x56_aa
STEP conv-wgmma conv2d_64x56x56_bb
========= Invalid __global__ write of size 4 bytes
=========     at kernel_kernel+0x120
=========     by thread (0,0,0) in block (1,0,0)
=========     Address 0x7f0000 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: cuLaunchKernel [0x1] in libcuda.so.1
=========
========= Invalid __global__ write of size 4 bytes
=========     at kernel_kernel+0x120
=========     by thread (1,0,0) in block (1,0,0)
STEP comparing
EQUAL True
========= ERROR SUMMARY: 2 errors
"""
RACES = """\
STEP conv-wgmma conv2d_64x56x56_bb
========= Error: Race reported between Write access at kernel_kernel+0x140
=========     and Read access at kernel_kernel+0x180 [64 hazards]
STEP lists row_list_56x56_aa
========= Warning: Race reported between Write access at 0xf0 in kernel_kernel
=========     and Write access at 0xf8 in kernel_kernel [12 hazards]
EQUAL True
========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)
"""


@pytest.fixture
def sanitize(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("gpu_sanitize")


def test_findings_are_told_by_kernel(sanitize: ModuleType) -> None:
    told = sanitize.summary("memcheck", SAID, 1)
    (one,) = told["findings"]
    assert (one["schedule"], one["kernel"], one["count"]) == ("conv-wgmma", "conv2d_64x56x56_bb", 2)
    assert (one["what"], one["in"]) == ("Invalid __global__ write of size 4 bytes", "kernel_kernel")
    assert told["calls_by_schedule"] == {"lists": 1, "conv-wgmma": 1}
    assert told["said"] == ["ERROR SUMMARY: 2 errors"]
    assert told["bit_equal"]
    assert not told["passed"]


def test_nothing_found_passes_if_the_output_is_right(sanitize: ModuleType) -> None:
    clean = "".join(line for line in SAID.splitlines(keepends=True) if not line.startswith("========= "))
    assert sanitize.summary("memcheck", clean, 0)["passed"]
    assert not sanitize.summary("memcheck", clean.replace("True", "False"), 0)["passed"]


def test_races_that_are_not_modelled_are_told_apart(sanitize: ModuleType) -> None:
    wgmma, lists = sanitize.summary("racecheck", RACES, 0)["findings"]
    assert (wgmma["schedule"], wgmma["modelled"], wgmma["count"]) == ("conv-wgmma", False, 1)
    assert (lists["schedule"], lists["modelled"], lists["count"]) == ("lists", True, 1)
    assert lists["what"].startswith("Warning: Race reported between Write access")


@pytest.mark.parametrize(("paradigm", "granularity"), [("spatial", "2"), ("channel", "8"), ("layer", None)])
def test_values_apart_give_the_usual_output(sanitize: ModuleType, paradigm: str, granularity: str | None) -> None:
    dynamic = convert(tiny(), torch.randn(1, 3, 32, 32), paradigm=paradigm, granularity=granularity)
    condition_random(dynamic.program)
    model = laudc.compile(dynamic.eval(), "cpu", 2)
    x = torch.randn(model.shape)
    masks = stratified_masks(model.mask_shapes, batch=2, rate=0.5, seed=0)
    seen: list[str] = []
    with torch.inference_mode():
        usual = model(x, masks).clone()
        model.runner.poison()
        found = sanitize.run_apart(model, x, masks, lambda step: seen.append(step.name))
    assert torch.equal(found, usual)
    assert len(seen) == len(model.lowering.executable.steps)
