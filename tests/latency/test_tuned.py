"""The store of timed tiles: what finds an entry again, what does not, and files that do not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laudc.errors import StorageError
from laudc.kernels import kernel
from laudc.kernels.kernel import Tile, offers_key
from laudc.latency.constants import calibration_path, tuned_path
from laudc.latency.kernel import EVERYTHING, Weighted
from laudc.latency.tuned import Timed, Tuned, band_of, key_of, tuned_for, type_words
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import SCHEDULES, Active, Work
from laudc.targets import TARGETS
from laudc.types import TensorType

H200 = TARGETS["h200"]
PIXELS = 14 * 14
HALF: Weighted = ((1.0, Active(rows=PIXELS)),)
"""Of the rows of two samples."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path / "not" / "made"))


def work(batch: int = 2, **fields: Any) -> Work:
    spec = Conv2dSpec(**{"in_channels": 64, "out_channels": 64, "rows": True, **fields})
    types = {
        "x": TensorType(shape=(batch, 64, 14, 14), dtype="float16"),
        "rows": TensorType(shape=(batch + 1 + batch * PIXELS,), dtype="int32"),
        "channels": TensorType(shape=(batch, 5), dtype="int32"),
    }
    operands = tuple(types[name] for name in spec.operands)
    return Work(spec=spec, operands=operands, results=spec.results(operands))


def timed(asked: Work, *, band: str = "rows 0.5", schedule: str = "conv-wgmma") -> Timed:
    return Timed(
        op=str(asked.spec),
        types=type_words(asked),
        band=band,
        code=offers_key(asked, H200),
        schedule=schedule,
        choice={"bm": 64},
        us=10.0,
        default_us=12.5,
        candidates=7,
    )


def found(store: Tuned, asked: Work | None = None, *, batch: int = 2, cases: Weighted = HALF) -> Tile | None:
    return store.tile(asked or work(), batch, cases)


def kept() -> Tuned:
    store = tuned_for(H200)
    store.keep(work(), timed(work()))
    return store


def test_what_was_kept_is_found_in_the_file_too() -> None:
    tile = Tile(schedule="conv-wgmma", choice={"bm": 64}, origin="tuned")
    assert found(kept()) == tile
    assert tuned_for(H200) == kept()
    assert found(tuned_for(H200)) == tile


def test_nothing_is_known_of_a_device_on_which_nothing_was_timed() -> None:
    assert tuned_for(H200).tiles == {}
    assert found(tuned_for(H200)) is None


def test_the_file_lies_beside_the_calibration_of_the_same_device() -> None:
    assert tuned_path(H200).parent == calibration_path(H200).parent
    assert tuned_path(H200) != calibration_path(H200)
    assert tuned_path(replace(H200, name="mine", title="Mine")) == tuned_path(H200)
    assert tuned_path(replace(H200, sm_count=114)) != tuned_path(H200)


@pytest.mark.parametrize(
    ("asked", "batch", "cases"),
    [
        (work(batch=3), 3, ((1.0, Active(rows=1.5 * PIXELS)),)),
        (work(kernel=(3, 3), padding=(1, 1, 1, 1)), 2, HALF),
        (work(activation="relu"), 2, HALF),
        (work(), 2, ((1.0, Active(rows=PIXELS + 20)),)),
        (work(), 2, ((1.0, Active(rows=10)),)),
    ],
    ids=["batch", "kernel", "activation", "more rows", "fewer rows"],
)
def test_it_answers_for_nothing_else(asked: Work, batch: int, cases: Weighted) -> None:
    assert found(kept(), asked, batch=batch, cases=cases) is None


@pytest.mark.parametrize("what", ["toolchain_version", "_source_hash", "_target_words"])
def test_a_changed_toolchain_schedule_or_target_asks_for_it_anew(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = kept()
    monkeypatch.setattr(kernel, what, lambda *_: "another")
    assert found(store) is None
    assert found(tuned_for(H200)) is None


def test_what_is_timed_anew_takes_the_place_of_the_old() -> None:
    store = kept()
    store.keep(work(), timed(work(), schedule="conv-mma"))
    assert [one.schedule for one in tuned_for(H200).tiles.values()] == ["conv-mma"]


def test_the_file_of_another_device_is_refused_in_one_line() -> None:
    kept()
    other = replace(H200, sm_count=114)
    tuned_path(H200).rename(tuned_path(other))
    with pytest.raises(StorageError, match="holds the tiles of another device; remove it, and run `laudc tune` here"):
        tuned_for(other)


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    kept()
    values = json.loads(tuned_path(H200).read_text())
    change(values)
    return json.dumps(values)


DAMAGES: dict[str, Callable[[], str]] = {
    "cut off": lambda: edited(lambda values: None)[:-20],
    "a list": lambda: "[]",
    "format": lambda: edited(lambda values: values.update(format=2)),
    "no target": lambda: edited(lambda values: values.pop("target")),
    "no time": lambda: edited(lambda values: only(values).pop("us")),
    "words for a tile": lambda: edited(lambda values: only(values).update(choice={"bm": "64"})),
    "more than it has": lambda: edited(lambda values: only(values).update(surplus=1)),
}


def only(values: dict[str, Any]) -> dict[str, Any]:
    (tile,) = values["tiles"].values()
    return tile  # type: ignore[no-any-return]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_refused_in_one_line(damage: Callable[[], str]) -> None:
    kept()
    tuned_path(H200).write_text(damage())
    with pytest.raises(StorageError, match=r"holds no tiles of this laudc; remove it, and run `laudc tune` again$"):
        tuned_for(H200)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAUDC_CALIBRATION", str(tmp_path / "file" / "below"))
    with pytest.raises(StorageError, match=r"cannot be written: .*; choose another folder"):
        Tuned(target=H200).keep(work(), timed(work()))


# ---- bands


@pytest.mark.parametrize(
    ("share", "band"),
    [(0, 0.25), (0.2, 0.25), (0.25, 0.25), (0.2501, 0.25), (0.27, 0.5), (0.5, 0.5), (0.6, 0.75), (0.9, 1), (1, 1)],
)
def test_a_band_is_a_quarter_of_the_rows(share: float, band: float) -> None:
    assert band_of(work(), 2, ((1.0, Active(rows=share * 2 * PIXELS)),)) == f"rows {band:g}"


def test_the_expected_share_counts() -> None:
    cases = ((0.25, Active(rows=0)), (0.75, Active(rows=2 * PIXELS)))
    assert band_of(work(), 2, cases) == "rows 0.75"


def test_channels_have_bands_of_their_own() -> None:
    both = work(channels_in=16)
    assert band_of(both, 2, ((1.0, Active(rows=PIXELS, channels=1)),)) == "rows 0.5, channels 0.25"
    assert band_of(work(rows=False, channels_in=16), 2, ((1.0, Active(channels=3)),)) == "channels 0.75"


def test_the_decisions_of_whole_samples_have_the_bands_of_their_rows() -> None:
    spec = Conv2dSpec(in_channels=64, out_channels=64, rows=True, samples=True)
    operands = (work().operands[0], TensorType(shape=(2, 1, 1), dtype="float32"))
    whole = Work(spec=spec, operands=operands, results=spec.results(operands))
    assert band_of(whole, 2, ((0.5, Active(rows=0)), (0.5, Active(rows=PIXELS)))) == "rows 0.25"


def test_what_has_no_list_has_one_band() -> None:
    assert band_of(work(rows=False), 2, EVERYTHING) == "all"


def test_a_key_tells_bands_and_works_apart() -> None:
    keys = {key_of(work(), "rows 0.5"), key_of(work(), "rows 1"), key_of(work(batch=3), "rows 0.5")}
    assert len(keys) == 3
    assert key_of(work(), "rows 1") == key_of(work(), "rows 1")


def test_the_code_is_that_of_all_schedules_that_serve_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any of them may make a better tile."""
    before, simt = offers_key(work(), H200), type(SCHEDULES["conv-simt"])
    known = kernel._source_hash
    monkeypatch.setattr(kernel, "_source_hash", lambda kind: "changed" if kind is simt else known(kind))
    assert offers_key(work(), H200) != before
