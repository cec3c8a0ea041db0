"""Titled tables of text: what a command prints, before `modelopt.cli.console` formats it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A titled table of strings. They may hold control characters from a model's names: what prints them escapes them.

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
