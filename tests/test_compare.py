"""How far two results are apart."""

from __future__ import annotations

import math

import pytest
import torch

from laudc.compare import relative_error


def test_the_largest_difference_counts_over_the_largest_expected_magnitude() -> None:
    expected = torch.tensor([1.0, -4.0, 0.0])
    assert relative_error(expected + torch.tensor([0.0, 0.5, -1.0]), expected) == 0.25
    assert relative_error(expected, expected) == 0.0
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_error(torch.zeros(0), torch.zeros(0)) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_infinitely_far_from_everything(value: float) -> None:
    bad, good = torch.tensor([1.0, value]), torch.ones(2)
    assert relative_error(bad, good) == relative_error(good, bad) == relative_error(bad, bad) == math.inf


def test_shapes_that_differ_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="4, 1"):
        relative_error(torch.ones(4, 1), torch.ones(4))
