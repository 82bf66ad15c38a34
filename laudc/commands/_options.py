"""Options that several commands share, each spelled once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from laudc.errors import InputError

SETTINGS = {"show_default": True}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def parse_size(text: str) -> tuple[int, int]:
    """224 or 200x232 -> (H, W)."""
    sides = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if sides is None:
        raise InputError(f"the size {text!r} is not whole numbers above 0", "write 224, or height x width: 200x232")
    return int(sides[1]), int(sides[2] or sides[1])


def parse_rates(text: str) -> tuple[float, ...]:
    """0,.1,.5,1 -> numbers."""
    try:
        return tuple(float(rate) for rate in text.split(","))
    except ValueError as error:
        raise InputError(f"the rates {text!r} are not numbers", "write them like 0,.1,.5,1") from error


artifact = click.argument("artifact", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
force = click.option("--force", is_flag=True, help="Replace an existing file.")
output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write.", show_default="named here"
)
rate = click.option("--rate", type=float, help="Random masks at this rate stand in for the maskers: a speed study.")
rates = click.option("--rates", type=parse_rates, default="0,.1,.5,1", metavar="R,...", help="Of the random masks.")
trust = click.option(
    "--trust", is_flag=True, help="Use the machine code inside the file, instead of building it again."
)
SEED = click.IntRange(min=0, max=2**63 - 1)
seed = click.option("--seed", type=SEED, default=0, help="Of everything random.")


def size(default: str) -> Callable[[_Command], _Command]:
    """--size, with what holds where it is not given."""
    return click.option(
        "--size", type=parse_size, metavar="H[xW]", help="Height and width of the images.", show_default=default
    )
