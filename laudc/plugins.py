"""One file is one plugin: a read-only mapping from a file's stem to the object it offers.

    schedules/conv_cpu.py     SCHEDULE = ...      ->   SCHEDULES["conv-cpu"]

Files that start with `_` and those named `base` are the folder's own furniture. A file is imported when it
is asked for, so listing the names costs nothing.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Generic, TypeVar, cast

from laudc.errors import UnknownName

T = TypeVar("T")


class Plugins(Mapping[str, T], Generic[T]):
    """The plugins of one package: `attribute` of every module in it, by the module's name."""

    def __init__(self, *, package: str, attribute: str, kind: str) -> None:
        self._package = package
        self._attribute = attribute
        self._kind = kind

    def _stems(self) -> dict[str, str]:
        folders = tuple(importlib.import_module(self._package).__path__)
        return _listed(folders, tuple(map(_last_change, folders)))

    def __getitem__(self, name: str) -> T:
        module = f"{self._package}.{name.replace('-', '_')}"
        found = getattr(sys.modules.get(module), self._attribute, None)  # the folder is not scanned for every use
        if found is None:
            stems = self._stems()
            if name.replace("_", "-") not in stems:
                raise UnknownName.among(self._kind, name, stems)
            found = getattr(importlib.import_module(module), self._attribute)
        return cast(T, found)

    def __contains__(self, name: object) -> bool:
        return name in self._stems()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stems())

    def __len__(self) -> int:
        return len(self._stems())


def _last_change(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:  # inside an archive, which does not change
        return 0


@lru_cache(maxsize=64)
def _listed(folders: tuple[str, ...], changes: tuple[int, ...]) -> dict[str, str]:
    """Name -> stem of the plugins in these folders, as they were at their last changes."""
    stems = (module.name for module in pkgutil.iter_modules(folders) if not module.ispkg)
    return {stem.replace("_", "-"): stem for stem in sorted(stems) if not stem.startswith("_") and stem != "base"}
