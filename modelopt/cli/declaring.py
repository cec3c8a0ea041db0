"""How commands declare their options: each under a heading of ``--help``, several of them as one decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from modelopt.cli.command_help import Option

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def option(*names: str, heading: str = "Options", **settings: Any) -> Callable[[Decorated], Decorated]:
    """`click.option` with a heading."""
    return click.option(*names, cls=Option, heading=heading, **settings)


def switch_off(*names: str, help: str, heading: str = "Options") -> Callable[[Decorated], Decorated]:  # noqa: A002
    """A flag that makes a parameter False, which is True without it."""
    return option(
        *names, is_flag=True, callback=lambda _context, _option, is_off: not is_off, heading=heading, help=help
    )


def group(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator, listed in ``--help`` in this order."""

    def decorate(command: Decorated) -> Decorated:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate
