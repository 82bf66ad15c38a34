"""A whole compiled network on a CUDA device: streams, threads, fresh masks, `out=`.

The kernels must be in the cache ($LAUDC_CACHE) where TVM's compiler is absent: scripts/gpu_ladder.py --build.
"""

from __future__ import annotations

import threading

import pytest
import torch
import torchvision

import laudc
from laudc.compare import relative_error
from laudc.compiled import CompiledModel
from laudc.models import condition_random
from laudc.program import program_for
from laudc.rates import stratified_masks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module", params=["patches and channels", "layers"])
def network(request: pytest.FixtureRequest) -> CompiledModel:
    """The first case of scripts/gpu_ladder.py, at its batch and size; and layers, where a convolution decides for those
    that are placed before it is done."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18(weights=None).eval()
    example = torch.randn(1, 3, 200, 232, generator=torch.Generator().manual_seed(0))
    if request.param == "layers":
        dynamic = laudc.transform(module, example, paradigm="layer", keep_first=True)
    else:
        dynamic = laudc.transform(module, example, paradigm="spatial+channel", granularity="4+16")
    condition_random(dynamic.program)
    return laudc.compile(dynamic, "h200", batch=3, dtype="float16")


def _cases(network: CompiledModel, count: int) -> list[tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]]:
    """Images, masks and what dense and masked makes of them."""
    program = program_for(network.lowering.converted, network.shape)
    found = []
    for call in range(count):
        x = torch.randn(network.shape, generator=torch.Generator().manual_seed(call))
        masks = stratified_masks(network.mask_shapes, batch=network.shape[0], rate=0.5, seed=1, call=call)
        with torch.no_grad():
            found.append((x, masks, program(x, masks)[0]))
    return found


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return relative_error(found.float().cpu(), expected) <= 2e-3


def test_calls_on_several_streams_and_threads_do_not_mix(network: CompiledModel) -> None:
    cases = _cases(network, 4)
    wrong: list[int] = []

    def work(index: int) -> None:
        x, masks, expected = cases[index]
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found = network(x.cuda(), {key: mask.cuda() for key, mask in masks.items()})
                if not _close(found, expected):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_repeats_are_bit_equal_and_out_is_filled(network: CompiledModel) -> None:
    ((x, masks, expected),) = _cases(network, 1)
    first = network(x.cuda(), masks)
    out = torch.full_like(first, float("nan"))
    for _ in range(10):
        network.runner.poison()
        assert network(x.cuda(), masks, out=out) is out
        assert torch.equal(out, first)
    assert _close(first, expected)


def test_no_mask_on_leaves_no_value_undefined(network: CompiledModel) -> None:
    x, masks, _ = _cases(network, 1)[0]
    network.runner.poison()
    found = network(x.cuda(), {key: torch.zeros_like(mask) for key, mask in masks.items()})
    assert bool(torch.isfinite(found).all())
