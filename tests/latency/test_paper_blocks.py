"""The blocks that the published predictor prices: read from a program, or written down for the RegNets."""

from __future__ import annotations

import pytest
import torch

import laudc
from laudc import pipeline
from laudc.convert import read_blocks
from laudc.errors import InputError
from laudc.latency.paper import PaperBlock, PaperConv, blocks_of, dynamic_us, paper_device, regnet_y
from laudc.testing import conditioned


def torchvision_model(name: str, **options: object) -> torch.nn.Module:
    import torchvision

    model: torch.nn.Module = getattr(torchvision.models, name)(**options)
    return model.eval()


@pytest.mark.slow
def test_a_basic_block_is_two_convolutions_and_its_first_reads_a_wider_patch() -> None:
    program = read_blocks(conditioned(lambda: torchvision_model("resnet18")), torch.zeros(1, 3, 64, 64))
    block = blocks_of(program)[2]
    assert block == PaperBlock(
        stage=1,
        convs=(
            PaperConv(c_in=64, c_out=128, height=8, width=8, stride=2, kernel=3),
            PaperConv(c_in=128, c_out=128, height=8, width=8, kernel=3),
        ),
        projection=PaperConv(c_in=64, c_out=128, height=8, width=8, stride=2),
    )
    tx2 = paper_device("jetson-tx2")
    for paradigm in ("spatial", "layer", "channel"):
        assert dynamic_us(block, tx2, paradigm, 2, 0.25) < dynamic_us(block, tx2, paradigm, 2, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["spatial", "layer", "channel"])
def test_a_lowered_program_is_refused(paradigm: str) -> None:
    image = torch.zeros(1, 3, 64, 64)
    model = laudc.transform(conditioned(lambda: torchvision_model("resnet18")), image, paradigm=paradigm)
    lowered, _ = pipeline.run(model.eval().program, pipeline.lowering())
    with pytest.raises(InputError, match=r"layer1.0 is lowered already"):
        blocks_of(lowered)


@pytest.mark.slow
def test_a_dilated_convolution_is_refused() -> None:
    network = conditioned(lambda: torchvision_model("resnet50", replace_stride_with_dilation=[False, False, True]))
    program = read_blocks(network, torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"layer4.1 is 3x3, its stride \(1, 1\), its dilation \(2, 2\)"):
        blocks_of(program)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "regnet_y_800mf"])
def test_a_regnet_has_the_convolutions_of_torchvisions(name: str) -> None:
    network = torchvision_model(name)
    theirs = [
        (conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], conv.groups)
        for conv in network.get_submodule("trunk_output").modules()
        if isinstance(conv, torch.nn.Conv2d)
    ]
    ours = []
    for block in regnet_y(name):
        first, middle, last = block.convs
        squeeze = PaperConv(c_in=middle.c_out, c_out=block.squeeze, height=1, width=1)
        excite = PaperConv(c_in=block.squeeze, c_out=middle.c_out, height=1, width=1)
        shortcut = [block.projection] if block.projection else []
        ours += [
            (conv.c_in, conv.c_out, conv.kernel, conv.stride, conv.groups)
            for conv in (*shortcut, first, middle, squeeze, excite, last)
        ]
    assert ours == theirs
