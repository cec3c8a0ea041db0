"""Commands whose help is the docstring of their function, also where Python drops docstrings."""

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
