"""How commands say what they do: by the docstring of their function, and their options under headings."""

from __future__ import annotations

from typing import Any

import click

from modelopt.core.docstrings import docstring


class Documented(click.Command):
    """A command that says what it does under ``PYTHONOPTIMIZE=2`` too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.help is None and self.callback is not None:
            self.help = docstring(self.callback)


class Option(click.Option):
    """An option that ``--help`` lists under a heading."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class Command(Documented):
    """A command whose ``--help`` lists options under headings, in the order of their first option."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one definition list for each heading."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                headings.setdefault(_heading(parameter), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _heading(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return "Arguments"
    return getattr(parameter, "heading", "Output")  # --help itself is click's own option
