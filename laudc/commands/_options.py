"""Options that several commands share, each spelled once."""

from __future__ import annotations

import re
from pathlib import Path

import click

from laudc.errors import InputError

SETTINGS = {"show_default": True}


class Size(click.ParamType):
    """224 or 200x232 -> (H, W)."""

    name = "H[xW]"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Whole numbers above 0; anything else is an InputError."""
        if isinstance(value, tuple):
            return value
        sides = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
        if sides is None:
            raise InputError(
                f"the size {value!r} is not whole numbers above 0", "write 224, or height x width: 200x232"
            )
        return int(sides[1]), int(sides[2] or sides[1])


class Rates(click.ParamType):
    """0,.1,.5,1 -> numbers."""

    name = "R,..."

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Rates in [0, 1]; anything else is an InputError."""
        if isinstance(value, tuple):
            return value
        from laudc.plan import check_rate

        try:
            return tuple(check_rate(float(rate)) for rate in value.split(","))
        except ValueError as error:
            raise InputError(f"the rates {value!r} are not numbers", "write them like 0,.1,.5,1") from error


artifact = click.argument("artifact", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
force = click.option("--force", is_flag=True, help="Replace an existing file.")
output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write.", show_default="named here"
)
rate = click.option("--rate", type=float, help="Random masks at this rate stand in for the maskers: a speed study.")
trust = click.option(
    "--trust", is_flag=True, help="Use the machine code inside the file, instead of building it again."
)
seed = click.option("--seed", default=0, help="Of everything random.")


def size(default: str) -> "click.decorators.FC":  # noqa: UP037
    """--size, with what holds where it is not given."""
    return click.option("--size", type=Size(), help="Height and width of the images.", show_default=default)
