"""How the text of an option becomes a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

from modelopt.core.errors import InputError
from modelopt.core.quantities import BadQuantity

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Fraction(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``1%`` or ``0.01``."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text."""
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            self.fail(f"'{value}' is not a fraction such as 1% or 0.01", param, ctx)
        if not 0 <= number <= 1:
            self.fail(f"'{value}' is not between 0 and 1", param, ctx)
        return number


class ShareOfZeros(Fraction):
    """``50%`` or ``0.5``; of a percentage written as a plain number it says what was probably meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text."""
        from modelopt.pruning.sparsity_range import meant_by

        try:
            number = float(str(value))
        except ValueError:
            return super().convert(value, param, ctx)
        if not 0 <= number < 1:
            self.fail(f"'{value}' is not a fraction from 0 to below 1; {meant_by(number)}", param, ctx)
        return number


class Quantity(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """A share, a size or a time with its unit: see `modelopt.core.quantities`.

    Args:
        parse: Reads the text.
        name: What help calls the value.
    """

    def __init__(self, parse: Callable[[str], float], name: str) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text."""
        if not isinstance(value, str):
            return cast(float, value)
        try:
            return self._parse(value)
        except BadQuantity as error:
            self.fail(str(error), param, ctx)


class KeyValue(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """``key=value``."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Parse the text."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"'{value}' is not key=value", param, ctx)
        return key, text


class Names(click.ParamType):  # type: ignore[type-arg]  # generic only in recent releases
    """Text in which a file or a word is named; shells complete both. A word is refused later, by what reads it."""

    def __init__(self, *words: str, files: bool = True, name: str = "text") -> None:
        self.name = name
        self._words = words
        self._files = files

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the text as it is."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words that begin so; where nothing is written yet, or no word begins so, the files."""
        from click.shell_completion import CompletionItem

        words = [CompletionItem(word) for word in self._words if word.startswith(incomplete)]
        is_file = self._files and not (incomplete and words)
        return [CompletionItem(incomplete, type="file")] if is_file else words


# What becomes of the values of a repeated option


def mapping(_context: click.Context, _option: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """``key=value``, repeated, as a mapping."""
    return dict(pairs)


def axes(_context: click.Context, _option: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """``NAME=AXIS``, repeated, as a recipe holds it."""
    for name, text in pairs:
        if not text.isdecimal():
            raise click.BadParameter(f"'{name}={text}' is not NAME=AXIS with an axis from 0: state=1")
    return {name: int(text) for name, text in pairs}


def sizes(_context: click.Context, _option: click.Parameter, pairs: tuple[tuple[str, str], ...]) -> dict[str, int]:
    """``name=8``, repeated, as a mapping."""
    for name, text in pairs:
        if not text.isdecimal():
            raise InputError(f"--dim {name}={text} is not a size", hint=f"--dim {name}=8")
    return {name: int(text) for name, text in pairs}


def one_or_several(
    _context: click.Context, _option: click.Parameter, names: tuple[str, ...]
) -> str | tuple[str, ...] | None:
    """An option that may be repeated as a recipe holds it: one name, several, or None."""
    return names if len(names) > 1 else names[0] if names else None
