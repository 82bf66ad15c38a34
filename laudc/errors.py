"""Everything laudc raises on purpose.

LaudcError                 one line: the fact, then the next step
├── InputError             a value, file or option that cannot be used             exit 2
│   ├── UnknownName        no such model, target, paradigm, pass ...
│   ├── TargetError        a hardware file that does not hold
│   └── PlanError          decisions that do not fit the network
├── CaptureError           the network cannot be read or has nothing to skip       exit 3
├── ArtifactError          a .laud file that is damaged, too new or not trusted    exit 4
├── BuildError             no schedule, or a kernel that does not compile          exit 5
│   └── ToolchainError     the compiler that is needed is not here
├── EqualityError          a rung of the equality ladder failed                    exit 6
└── StorageError           a file that cannot be read or written                   exit 7
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST_LISTED, _MOST_NEAR = 12, 4


class LaudcError(Exception):
    """A fact and what to do about it, in one line."""

    exit_code = 1

    def __init__(self, fact: str, next_step: str) -> None:
        self.fact = fact
        self.next_step = next_step
        super().__init__(f"{fact}; {next_step}")


class InputError(LaudcError):
    """A value, file or option that cannot be used."""

    exit_code = 2


class UnknownName(InputError):
    """A name that no plugin folder holds."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], *, otherwise: str = "") -> UnknownName:
        """The error for `name`, with the nearest of the names that exist, or else the step `otherwise`."""
        names = sorted(known)
        near = _capped(_near(name, names), _MOST_NEAR)
        step = otherwise or f"there are {', '.join(_capped(names, _MOST_LISTED))}"
        return cls(f"no {kind} {name!r}", f"did you mean {' or '.join(near)}?" if near else step)


def _capped(names: Sequence[str], most: int) -> list[str]:
    return [*names] if len(names) <= most else [*names[:most], "..."]


def _near(name: str, names: Sequence[str]) -> list[str]:
    """The names that somebody may have meant; case, hyphens and underscores do not count."""
    wanted, plain = _plain(name), {known: _plain(known) for known in names}
    same = [known for known in names if plain[known] == wanted]
    close = difflib.get_close_matches(wanted, dict.fromkeys(plain.values()), n=3, cutoff=0.6)
    return (
        same
        or [known for one in close for known in names if plain[known] == one]
        or [known for known in names if len(wanted) > 1 and wanted in plain[known]]
    )


def _plain(name: str) -> str:
    return re.sub("[-_]", "", name).casefold()


class TargetError(InputError):
    """A hardware file that does not hold."""


class PlanError(InputError):
    """Decisions that do not fit the network."""


class CaptureError(LaudcError):
    """The network cannot be read, or has nothing to skip."""

    exit_code = 3


class ArtifactError(LaudcError):
    """A .laud file that is damaged, too new or not trusted."""

    exit_code = 4


class BuildError(LaudcError):
    """No schedule takes the work, or a kernel does not compile."""

    exit_code = 5


class ToolchainError(BuildError):
    """The compiler that is needed is not on this machine."""


class EqualityError(LaudcError):
    """A rung of the equality ladder failed."""

    exit_code = 6


class StorageError(LaudcError):
    """A file that cannot be read or written."""

    exit_code = 7
