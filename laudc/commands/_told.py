"""How a prediction is told: a table for people, JSON for programs, CSV for spreadsheets; always how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from laudc.commands._asked import Question
    from laudc.report.console import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One answer in every form."""

    facts: dict[str, Json]
    columns: Sequence[str]
    """Of the CSV."""
    rows: Sequence[Sequence[object]]
    show: Callable[[], None]
    """Prints it for people."""


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
        """Writes and prints."""
        from laudc.report.console import print_json
        from laudc.report.sheet import csv_text
        from laudc.whole_file import write_text

        device, calibration = question.target.name, question.calibration
        if self.csv_path is not None:
            rows = [(*row, device, calibration.words) for row in report.rows]
            write_text(self.csv_path, csv_text((*report.columns, "target", "calibration"), rows), force=self.force)
        if self.as_json:
            print_json(
                {
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
            )
            return
        report.show()
        low, high = calibration.interval
        click.echo(f"{device} is {calibration.words}: expect from {low:.2g} to {high:.2g} times what is predicted")
        if self.csv_path is not None:
            click.echo(f"wrote {self.csv_path}")
