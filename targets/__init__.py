"""One hardware description a file: `orin.toml` is the target "orin".

TARGETS["jetson-tx2"]            one of the files here
load_target("./my-board.toml")   a file of your own
"""

if __name__ != "laudc.targets":
    raise ImportError("the folder targets is the package laudc.targets; import it by that name")

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from laudc.errors import TargetError, UnknownName
from laudc.targets.base import Target

__all__ = ["TARGETS", "Target", "load_target"]


class _Targets(Mapping[str, Target]):
    """The TOML files of every folder on `laudc.targets.__path__`, by stem. A file is read when it is asked for."""

    def _files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for folder in __path__:
            for path in sorted(Path(folder).glob("*.toml")):
                if path.stem in files:
                    raise TargetError(f"both {files[path.stem]} and {path} are target {path.stem!r}", "rename one")
                files[path.stem] = path
        return dict(sorted(files.items()))

    def __getitem__(self, name: str) -> Target:
        files = self._files()
        if name not in files:
            raise UnknownName.among("target", name, files)
        return Target.read(files[name])

    def __contains__(self, name: object) -> bool:
        return name in self._files()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files())

    def __len__(self) -> int:
        return len(self._files())


TARGETS: Mapping[str, Target] = _Targets()


def load_target(name_or_path: str | os.PathLike[str]) -> Target:
    """The target of that name; a path (it ends in .toml or has a slash) is read as a file."""
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or "/" in text or os.sep in text:
        return Target.read(Path(text).expanduser())
    return TARGETS[text]
