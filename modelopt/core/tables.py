"""Text in sections: what a command has to say, before `modelopt.cli.console` gives it a form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A titled table of strings. They may hold anything a model's names hold: whoever prints them escapes them.

    Attributes:
        title: The heading.
        header: The column titles, None for plain key and value rows.
        rows: The cells, one tuple for each row.
        notes: Sentences below the table.
    """

    title: str
    header: tuple[str, ...] | None
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
