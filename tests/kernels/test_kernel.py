"""Which schedule and which tile an operation gets, and what is said of where the tile came from."""

from __future__ import annotations

from typing import Any

import pytest

from laudc.kernels.kernel import Kernel, Tile, choose, offers
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Work
from laudc.targets import TARGETS
from laudc.types import TensorType

H200 = TARGETS["h200"]


def work(dtype: str = "float16", **fields: Any) -> Work:
    spec = Conv2dSpec(**{"in_channels": 64, "out_channels": 128, **fields})
    operands = (TensorType(shape=(8, 64, 28, 28), dtype=dtype),)
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def offered(schedule: str) -> list[Tile]:
    return [
        Tile(schedule=name, choice=choice, origin="tuned") for name, choice in offers(work(), H200) if name == schedule
    ]


def test_every_schedule_that_takes_the_work_offers_its_tiles_the_default_first() -> None:
    found = list(offers(work(), H200))
    assert list(dict.fromkeys(name for name, _ in found)) == ["conv-wgmma", "conv-mma", "conv-simt"]
    default = choose(work(), H200, batch=8)
    assert found[0] == (default.schedule, default.choice)


def test_without_a_search_the_default_is_taken() -> None:
    assert choose(work(), H200, batch=8).origin == "default"


def test_what_a_search_finds_is_predicted_unless_it_is_the_default() -> None:
    assert choose(work(), H200, batch=8, search=lambda *asked: asked[2][0]).origin == "default"
    found = choose(work(), H200, batch=8, search=lambda *asked: asked[2][-1])
    assert (found.schedule, found.origin) == ("conv-wgmma", "predicted")


@pytest.mark.parametrize("schedule", ["conv-wgmma", "conv-mma", "conv-simt"])
def test_a_preferred_tile_is_taken_of_whatever_schedule_offers_it(schedule: str) -> None:
    tile = offered(schedule)[-1]
    found = choose(work(), H200, batch=8, preferred=[tile])
    assert (found.schedule, found.choice, found.origin) == (schedule, tile.choice, "tuned")


def test_the_first_preferred_tile_that_is_offered_is_taken() -> None:
    gone = Tile(schedule="conv-wgmma", choice={"bm": 1}, origin="predicted")
    assert choose(work(), H200, batch=8, preferred=[gone, offered("conv-mma")[0]]).schedule == "conv-mma"


@pytest.mark.parametrize("schedule", ["conv-wgmma", "conv-cpu", "pooling", "no-such"])
def test_in_place_of_a_preferred_tile_that_is_not_offered_stands_a_fallback(schedule: str) -> None:
    found = choose(work(), H200, batch=8, preferred=[Tile(schedule=schedule, choice={"bm": 1}, origin="tuned")])
    assert (found.schedule, found.origin) == ("conv-wgmma", "fallback")


def test_a_last_resort_is_a_fallback_where_the_device_has_better() -> None:
    grouped = choose(work(groups=2), H200, batch=8)
    assert (grouped.schedule, grouped.origin) == ("conv-simt", "fallback")
    searched = choose(work(groups=2), H200, batch=8, search=lambda *asked: asked[2][-1])
    assert searched.origin == "fallback"


def test_where_the_device_has_nothing_better_it_is_none() -> None:
    found = choose(work(), TARGETS["jetson-tx2"], batch=8)
    assert (found.schedule, found.origin) == ("conv-simt", "default")
    assert choose(work("float32"), TARGETS["cpu"], batch=8).origin == "default"


def test_where_a_tile_came_from_is_no_part_of_the_kernel() -> None:
    tuned = choose(work(), H200, batch=8, preferred=offered("conv-wgmma")[:1])
    plain = choose(work(), H200, batch=8)
    assert (tuned.origin, plain.origin) == ("tuned", "default")
    assert tuned == plain == Kernel.from_json(tuned.to_json())
    assert tuned.key == plain.key


@pytest.mark.parametrize("name", ["conv-wgmma", "conv-mma"])
def test_a_schedule_that_serves_nothing_on_a_device_says_so_apart(name: str) -> None:
    nano = TARGETS["jetson-nano"]
    assert SCHEDULES[name].refuse_target(nano) == SCHEDULES[name].refuse(work(), nano)
    assert SCHEDULES[name].refuse_target(H200) is None
