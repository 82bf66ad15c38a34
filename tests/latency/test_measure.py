"""From marked replays to the times of the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from laudc.latency.measure import unmarked_us


def test_the_marks_part_is_taken_off_each_kernel_alike() -> None:
    each = np.tile([3.0, 5.0, 10.0], (22, 1))  # with marks: 18
    ends = np.full((22, 1), 15.0)  # without: 15
    assert unmarked_us(each, ends) == pytest.approx([2, 4, 9])


def test_replays_that_were_disturbed_and_the_first_ones_do_not_count() -> None:
    each = np.tile([3.0, 5.0], (22, 1))
    each[:2] = 100.0
    each[5:9] += 40.0
    each[12] = 0.0
    assert unmarked_us(each, np.full((22, 1), 8.0)) == pytest.approx([3, 5])


def test_a_clock_that_ticks_slowly_is_averaged() -> None:
    each = np.tile([[1.0, 3.0], [2.0, 2.0]], (11, 1))
    assert unmarked_us(each, np.full((22, 1), 4.0)) == pytest.approx([1.5, 2.5])


def test_no_kernel_takes_less_than_nothing_and_together_they_take_what_all_of_them_do() -> None:
    assert unmarked_us(np.tile([0.1, 9.9], (22, 1)), np.full((22, 1), 8.0)) == pytest.approx([0, 8])
    assert unmarked_us(np.tile([0.1, 1.0, 9.9], (22, 1)), np.full((22, 1), 8.0)) == pytest.approx([0, 0, 8])
    assert unmarked_us(np.tile([0.1, 9.9], (22, 1)), np.zeros((22, 1))) == [0, 0]
