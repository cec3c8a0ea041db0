"""The only user of rich: tables, progress, plain output where there is no terminal, and JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelopt.cli import documents
from modelopt.cli.progress_text import ProgressLines, ProgressText
from modelopt.core.printable import printable
from modelopt.core.progress import Progress, silent
from modelopt.core.tables import Section

if TYPE_CHECKING:
    from modelopt.report import Report

_PLAIN_WIDTH = 160


class Screen:
    """Where a command's words go.

    Args:
        quiet: Say nothing but errors.
        verbose: How much more to say.
        as_json: Print one JSON document to stdout and nothing else.
    """

    def __init__(self, *, quiet: bool, verbose: int, as_json: bool) -> None:
        self._quiet = quiet or as_json
        self._verbose = verbose
        self._as_json = as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback for progress: a bar on a terminal; without one a line now and then, or per stage with ``-v``."""
        if self._quiet:
            yield silent
            return
        if not self._err.is_terminal:
            with ProgressLines(sys.stderr, every_stage=self._verbose > 0) as lines:
                yield lines.update
            return
        from rich import progress as parts  # `inspect` shows none, and starts the sooner

        columns = (
            parts.SpinnerColumn(),
            parts.TextColumn("{task.description}", markup=False),  # names of models are not markup
            parts.BarColumn(bar_width=20),
            parts.TimeElapsedColumn(),
        )
        with parts.Progress(*columns, console=self._err, transient=True) as bar:
            text, task = ProgressText(), bar.add_task("starting", total=None)

            def update(what: str, done: int, total: int | None) -> None:
                text.update(what, done, total)
                bar.update(task, description=text.line(), completed=done, total=total)

            yield update

    def report(self, report: Report, *, explain: bool) -> None:
        """Show a report: JSON on stdout, else tables on stderr."""
        if self._as_json:
            self.json(report)
            return
        from modelopt.report.summary import report_sections

        self._draw(self._err, report_sections(report, explain=explain, verbose=self._verbose > 0))

    def sections(self, sections: Sequence[Section]) -> None:
        """Show a command's result on stdout."""
        if not self._as_json:
            self._draw(self._out, sections)

    def json(self, document: msgspec.Struct | dict[str, object]) -> None:
        """Print one JSON document to stdout."""
        documents.show(document)

    def note(self, text: str) -> None:
        """Say a line on stderr."""
        if not self._quiet:
            self._err.print(Text(printable(text)))

    def _draw(self, console: Console, sections: Sequence[Section]) -> None:
        if self._quiet:
            return
        for i, section in enumerate(sections):
            if i:
                console.print()
            if section.title:
                console.print(Text(printable(section.title), style="bold"))
            if section.rows:
                console.print(_table(section))
            for note in section.notes:
                console.print(Text(printable(note)), soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(
            stderr=stderr, highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH, no_color=True, soft_wrap=True
        )
    return console


def _table(section: Section) -> Table:
    table = Table(box=None, show_header=section.header is not None, pad_edge=False, header_style="dim")
    columns = len(section.header or section.rows[0])
    for i in range(columns):
        title = section.header[i] if section.header is not None else ""
        table.add_column(
            Text(printable(title)), justify="left" if i == 0 or not _numeric(section, i) else "right", overflow="fold"
        )
    for row in section.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _numeric(section: Section, column: int) -> bool:
    cells = [row[column] for row in section.rows if row[column]]
    return bool(cells) and all(cell[0].isdigit() or cell[0] in "+-−<–" for cell in cells)
