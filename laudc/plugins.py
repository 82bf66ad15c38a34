"""One file is one plugin: a read-only mapping from a file's stem to the object it offers.

    schedules/conv_cpu.py     SCHEDULE = ...      ->   SCHEDULES["conv-cpu"]

Files that start with `_` and those named `base` are the folder's own furniture. A file is imported when it
is asked for, so listing the names costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
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
        path = importlib.import_module(self._package).__path__
        stems = (module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
        return {stem.replace("_", "-"): stem for stem in sorted(stems) if not stem.startswith("_") and stem != "base"}

    def __getitem__(self, name: str) -> T:
        stems = self._stems()
        name = name.replace("_", "-")
        if name not in stems:
            raise UnknownName.among(self._kind, name, stems)
        module = importlib.import_module(f"{self._package}.{stems[name]}")
        return cast(T, getattr(module, self._attribute))

    def __contains__(self, name: object) -> bool:
        return name in self._stems()

    def __iter__(self) -> Iterator[str]:
        return iter(self._stems())

    def __len__(self) -> int:
        return len(self._stems())
