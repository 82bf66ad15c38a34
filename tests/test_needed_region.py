"""The pixels that some outputs of a convolution need: those their taps read, by the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laudc.ops._geometry import needed_region
from laudc.testing import random_images

GEOMETRY = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4), st.integers(1, 3))
"""Along one axis: taps, stride, padding before and after, dilation."""


def needs(wanted: Sequence[bool], size: int, geometry: tuple[int, int, int, int, int]) -> set[tuple[int, int]]:
    """(output, input) for every input that a wanted output reads, along one axis."""
    taps, stride, before, _, dilation = geometry
    reads = {(i, stride * i - before + dilation * t) for i, want in enumerate(wanted) if want for t in range(taps)}
    return {(i, place) for i, place in reads if 0 <= place < size}


def out_size(size: int, geometry: tuple[int, int, int, int, int]) -> int:
    taps, stride, before, after, dilation = geometry
    return (size + before + after - dilation * (taps - 1) - 1) // stride + 1


@settings(max_examples=150)
@given(data=st.data(), vertical=GEOMETRY, horizontal=GEOMETRY, height=st.integers(1, 9), width=st.integers(1, 9))
def test_the_needed_region_is_what_the_taps_of_the_wanted_outputs_read(
    data: st.DataObject,
    vertical: tuple[int, int, int, int, int],
    horizontal: tuple[int, int, int, int, int],
    height: int,
    width: int,
) -> None:
    out_height, out_width = out_size(height, vertical), out_size(width, horizontal)
    if out_height < 1 or out_width < 1:
        return
    row = st.lists(st.booleans(), min_size=out_width, max_size=out_width)
    wanted = data.draw(st.lists(row, min_size=out_height, max_size=out_height))
    found = needed_region(
        torch.tensor([wanted]).float(),
        size=(height, width),
        kernel=(vertical[0], horizontal[0]),
        stride=(vertical[1], horizontal[1]),
        padding=(vertical[2], vertical[3], horizontal[2], horizontal[3]),
        dilation=(vertical[4], horizontal[4]),
    )[0]
    expected = torch.zeros(height, width)
    for i, place_i in needs([True] * out_height, height, vertical):
        for j, place_j in needs(wanted[i], width, horizontal):
            expected[place_i, place_j] = 1
            assert wanted[i][j]
    assert torch.equal(found, expected)


def test_the_needed_region_of_each_sample_is_its_own() -> None:
    pixels = torch.zeros(3, 5, 6)
    pixels[0, 0, 0] = pixels[2, 4, 5] = 1
    geometry = {"size": (5, 6), "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
    found = needed_region(pixels, **geometry)  # type: ignore[arg-type]
    assert [int(sample.sum()) for sample in found] == [4, 0, 4]


def test_a_gradient_goes_through_the_needed_region() -> None:
    pixels = random_images(1, 5, 6).sigmoid().requires_grad_()
    region = needed_region(pixels, size=(10, 12), kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1))
    region.sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad > 0).all()
