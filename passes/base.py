"""What a pass is: a frozen record of its options that turns one program into another.

`run` gets a program and returns the very same object when nothing matched. It never changes its argument: it edits
a clone. Nothing is written on the pass. Where a pass leaves something alone that a reader would expect to change,
it says so through `Program.refusals`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from laudc.program import Program, Refusal


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """One rewrite. Its name is the stem of its file."""

    stage: ClassVar[str] = "lower"
    """"convert": makes the trainable network. "lower": turns it into what the kernels run."""
    after: ClassVar[tuple[str, ...]] = ()
    """The passes of the same stage that must have run before, by name."""
    optional: ClassVar[bool] = False
    """Whether `--no-fuse` may switch it off."""

    @abstractmethod
    def run(self, program: Program) -> Program:
        """The rewritten program, or the same object when nothing matched."""

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


def refused(program: Program, *refusals: Refusal) -> Program:
    """The program with more refusals noted, each once."""
    fresh = tuple(refusal for refusal in refusals if refusal not in program.refusals)
    return replace(program, refusals=program.refusals + fresh) if fresh else program
