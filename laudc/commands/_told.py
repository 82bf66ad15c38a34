"""How a prediction is told: a table for people, JSON for programs, CSV for spreadsheets; always how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from laudc.commands._asked import Question
    from laudc.latency.constants import Calibration
    from laudc.report.console import Json
    from laudc.targets import Target


def trust_words(target: Target, calibration: Calibration) -> str:
    """How far to trust every number that was predicted for the device."""
    low, high = calibration.interval
    return f"{target.name} is {calibration.words}: expect from {low:.2g} to {high:.2g} times what is predicted"


def ms_words(us: float, calibration: Calibration) -> str:
    """A predicted time with its interval, from microseconds."""
    low, high = calibration.interval
    ms = us / 1e3
    return f"{ms:.3g} ms ({low * ms:.3g} to {high * ms:.3g})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One answer in every form."""

    facts: dict[str, Json]
    columns: Sequence[str]
    """Of the CSV."""
    rows: Sequence[Sequence[object]]
    show: Callable[[], None]
    """Prints it for people."""


def named(columns: Sequence[str], rows: Sequence[Sequence[Json]]) -> list[dict[str, Json]]:
    """The rows of the CSV as JSON has them: the same names, the same numbers."""
    return [dict(zip(columns, row, strict=True)) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """The forms that were asked for."""

    csv_path: Path | None
    force: bool
    as_json: bool

    def refuse_unwritable(self) -> None:
        """Before any work."""
        from laudc.whole_file import refuse_unwritable

        if self.csv_path is not None:
            refuse_unwritable(self.csv_path, self.force)

    def tell(self, question: Question, report: Report) -> None:
        """Writes and prints, with how far to trust it."""
        device, calibration = question.target.name, question.calibration
        facts: dict[str, Json] = {
            "model": question.asked.name,
            "skips": question.asked.how,
            "target": device,
            "calibration": calibration.words,
            "interval": list(calibration.interval),
            "batch": question.batch,
            "rate": question.rate,
            "dtype": question.dtype,
            **report.facts,
        }

        def show() -> None:
            report.show()
            click.echo(trust_words(question.target, calibration))

        columns = (*report.columns, "target", "calibration")
        rows = [(*row, device, calibration.words) for row in report.rows]
        self.write(Report(facts=facts, columns=columns, rows=rows, show=show))

    def write(self, report: Report) -> None:
        """Writes and prints just that."""
        from laudc.report.console import print_json
        from laudc.report.sheet import csv_text
        from laudc.whole_file import write_text

        if self.csv_path is not None:
            write_text(self.csv_path, csv_text(report.columns, report.rows), force=self.force)
        if self.as_json:
            print_json(report.facts)
            return
        report.show()
        if self.csv_path is not None:
            click.echo(f"wrote {self.csv_path}")
