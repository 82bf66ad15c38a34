"""The tiles that `laudc tune` found fastest on a device, which `laudc compile` takes before it predicts any.

One JSON file a device, beside its calibration. A tile holds for one operation at one batch and one band of rates, as
long as the schedules that serve the operation, the toolchain and the target are what they were. How much of a list is
on decides which tile is best, and does so gradually: so its share, expected of rows and of channels alike, is told in
quarters, and one tile stands for each. What has no list has one band.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from laudc.errors import StorageError
from laudc.kernels import cache
from laudc.kernels.kernel import Tile, offers_key
from laudc.latency.constants import device_identity, tuned_path
from laudc.latency.kernel import Weighted
from laudc.ops.conv2d import Conv2dSpec
from laudc.schedules import Active, Choice, Work
from laudc.targets import Target
from laudc.whole_file import storage_error, write_text

_FORMAT = 1
_BANDS = 4
_ROUNDING = 0.01
"""Of a band; expected shares are sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """The fastest tile of one operation in one band; medians in microseconds."""

    op: str
    types: tuple[str, ...]
    """Of its operands and results: the batch is in them."""
    band: str
    code: str
    """sha256 of what decides the code of the tiles among which it was chosen."""
    schedule: str
    choice: Choice
    us: float
    default_us: float
    candidates: int


@dataclass(kw_only=True)
class Tuned:
    """The tiles of one device, by what they are for."""

    target: Target
    tiles: dict[str, Timed] = field(default_factory=dict)

    def tile(self, work: Work, batch: int, cases: Weighted) -> Tile | None:
        """What was found for the work when so much of it is on; None if nothing, or if it was of other code."""
        found = self.tiles.get(key_of(work, band_of(work, batch, cases)))
        if found is None or found.code != offers_key(work, self.target):
            return None
        return Tile(schedule=found.schedule, choice=found.choice, origin="tuned")

    def keep(self, work: Work, timed: Timed) -> None:
        """Adds it, in the file too. StorageError where that cannot be written."""
        self.tiles[key_of(work, timed.band)] = timed
        path = tuned_path(self.target)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        tiles = {key: asdict(one) for key, one in self.tiles.items()}
        content = {"format": _FORMAT, "target": device_identity(self.target), "tiles": tiles}
        write_text(path, json.dumps(content, indent=1) + "\n", force=True)


def tuned_for(target: Target) -> Tuned:
    """What was found on this device, a CPU as it is here. StorageError for a file that does not hold, or is of another
    device."""
    path = tuned_path(target)
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Tuned(target=target)
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read", "remove it, and run `laudc tune` again") from error
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    match values:
        case {"format": 1, "target": str(identity), "tiles": dict(tiles)} if all(map(_holds, tiles.values())):
            if identity != device_identity(target):
                raise StorageError(f"{path} holds the tiles of another device", "remove it, and run `laudc tune` here")
            return Tuned(target=target, tiles={key: _timed(one) for key, one in tiles.items()})
    raise StorageError(f"{path} holds no tiles of this laudc", "remove it, and run `laudc tune` again")


def _holds(value: object) -> bool:
    match value:
        case {
            "op": str(), "types": list(), "band": str(), "code": str(), "schedule": str(), "choice": dict(choice),
            "us": float(), "default_us": float(), "candidates": int(), **others,
        } if not others:  # fmt: skip
            return all(isinstance(number, int) for number in choice.values())
    return False


def _timed(values: dict[str, Any]) -> Timed:
    return Timed(**{**values, "types": tuple(values["types"])})


def key_of(work: Work, band: str) -> str:
    """What a tile is found under."""
    content = {"op": work.spec.name, "spec": work.spec.to_json(), "types": type_words(work), "band": band}
    return cache.key_of("tile", json.dumps(content, sort_keys=True))


def type_words(work: Work) -> tuple[str, ...]:
    """The types that go in and come out."""
    return tuple(str(type_) for type_ in (*work.operands, *work.results))


def band_of(work: Work, batch: int, cases: Weighted) -> str:
    """The quarters in which the expected shares of its lists lie, such as "rows 0.75, channels 0.5"; "all" without.

    batch: of the network the work is in.
    """
    named, known = dict(zip(work.spec.operands, work.operands, strict=True)), tuple(cases)
    found = []
    if "rows" in named:
        spec, listed = work.spec, named["rows"].numel - 1 - batch
        rows = math.prod(spec.out_map(work.operands)) if isinstance(spec, Conv2dSpec) else listed
        found.append(f"rows {_quarter(known, lambda on: on.rows, rows):g}")
    if "channels" in named:
        found.append(f"channels {_quarter(known, lambda on: on.channels, named['channels'].shape[1] - 1):g}")
    return ", ".join(found) or "all"


def _quarter(cases: tuple[tuple[float, Active], ...], count: Callable[[Active], float | None], capacity: int) -> float:
    counts = ((weight, count(active)) for weight, active in cases)
    share = sum(weight * (capacity if on is None else on) for weight, on in counts) / capacity
    return max(1, math.ceil(_BANDS * share - _ROUNDING)) / _BANDS
