"""Which tile is taken, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from laudc.errors import TargetError
from laudc.latency import search
from laudc.latency._time import Time
from laudc.latency.constants import Calibration, Constants, defaults
from laudc.latency.kernel import Weighted
from laudc.latency.search import MARGIN, best_choice
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Active, Choice, Work
from laudc.targets import TARGETS, Target
from laudc.types import TensorType

V100 = TARGETS["v100"]
OFFERED: tuple[Choice, ...] = tuple({"tile": number} for number in range(3))
CASES: Weighted = ((0.5, Active(rows=10)), (0.5, Active(rows=20)))
Priced = Callable[..., list[int]]


def work(columns: int = 64) -> Work:
    spec = Conv2dSpec(in_channels=64, out_channels=columns, rows=True)
    operands = (
        TensorType(shape=(2, 64, 14, 14), dtype="float32"),
        TensorType(shape=(2 + 1 + 2 * 14 * 14,), dtype="int32"),
    )
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def best(
    offered: Sequence[Choice] = OFFERED,
    *,
    asked: Work | None = None,
    target: Target = V100,
    calibration: Calibration | None = None,
    cases: Weighted = CASES,
) -> Choice:
    return best_choice("conv-simt", asked or work(), offered, target, calibration or defaults(target), cases)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CACHE", str(tmp_path))


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Priced:
    """Gives the tiles these times (None: it does not fit); the tiles that were then asked for."""

    def prices(*times: float | None) -> list[int]:
        asked: list[int] = []

        def time(
            schedule: str, work: Work, choice: Choice, target: Target, constants: Constants, cases: Weighted
        ) -> Time:
            asked.append(choice["tile"])
            us = times[choice["tile"]]
            if us is None:
                raise TargetError("it does not fit", "choose a smaller tile")
            return Time(compute_us=us)

        monkeypatch.setattr(search, "expected_time", time)
        return asked

    return prices


def test_the_default_stays_within_the_margin(priced: Priced) -> None:
    priced(100.0, 100 * (1 - MARGIN) + 0.1, 200.0)
    assert best() == OFFERED[0]


def test_a_tile_that_is_clearly_faster_is_taken(priced: Priced) -> None:
    priced(100.0, 100 * (1 - MARGIN) - 0.1, 60.0)
    assert best() == OFFERED[2]


def test_a_tile_that_does_not_fit_is_passed_over(priced: Priced) -> None:
    priced(None, 100.0, None)
    assert best() == OFFERED[1]


def test_no_tile_that_fits_is_an_error_that_names_the_device(priced: Priced) -> None:
    priced(None, None, None)
    with pytest.raises(TargetError, match="no tile of conv-simt fits v100 for conv2d"):
        best()


def test_the_only_tile_is_not_priced(priced: Priced) -> None:
    asked = priced(1.0)
    assert best(OFFERED[:1]) == OFFERED[0]
    assert asked == []


def test_a_second_search_reads_what_the_first_one_found(priced: Priced) -> None:
    priced(100.0, 50.0, 200.0)
    assert best() == OFFERED[1]
    asked = priced()
    assert best() == OFFERED[1]
    assert asked == []


@pytest.mark.parametrize(
    "changed",
    [
        {"target": replace(V100, dram_gb_per_s=901)},
        {"asked": work(columns=32)},
        {"cases": ((1.0, Active(rows=10)),)},
        {"calibration": replace(defaults(V100), constants=replace(defaults(V100).constants, start_us=9))},
        {"offered": (*OFFERED[:2], {"tile": 2, "stages": 1})},
    ],
    ids=["target", "work", "rate", "constants", "tiles"],
)
def test_whatever_the_answer_depends_on_is_searched_anew(priced: Priced, changed: dict[str, object]) -> None:
    priced(100.0, 50.0, 200.0)
    best()
    asked = priced(50.0, 100.0, 200.0)
    assert best(**changed) == OFFERED[0]  # type: ignore[arg-type]
    assert asked == [0, 1, 2]


def test_a_device_of_another_name_and_the_same_facts_is_the_same(priced: Priced) -> None:
    priced(100.0, 50.0, 200.0)
    best()
    asked = priced()
    assert best(target=replace(V100, name="mine", title="My board")) == OFFERED[1]
    assert asked == []


def test_the_source_of_the_model_is_part_of_the_key(priced: Priced, monkeypatch: pytest.MonkeyPatch) -> None:
    priced(100.0, 50.0, 200.0)
    best()
    monkeypatch.setattr(search, "source_hash", lambda: "another")
    asked = priced(100.0, 50.0, 200.0)
    best()
    assert asked == [0, 1, 2]


def test_few_rows_get_a_smaller_tile_than_many() -> None:
    """Of what a schedule really offers."""
    asked = work(columns=256)
    offered = SCHEDULES["conv-simt"].choices(asked, V100)
    few, many = (best(offered, asked=asked, cases=((1.0, Active(rows=on)),)) for on in (16.0, 392.0))
    assert few["bm"] * few["bn"] < many["bm"] * many["bn"]
