"""Shares, sizes and times as users write them: ``1%``, ``5MB``, ``2ms``. Flags and recipes read the same words.

A number without a unit is refused where it has two likely meanings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Zµ]*)")


class BadQuantity(ValueError):
    """A text that is no quantity of the kind; the message says what was meant instead."""


def share(text: str) -> float:
    """A fraction of 0 to 1, from ``1%`` or ``0.01``.

    Raises:
        BadQuantity: It is no fraction, or a percentage without its sign.
    """
    words = text.strip()
    number = _decimal(words.removesuffix("%"), text, "a fraction such as 1% or 0.01")
    if words.endswith("%"):
        number /= 100
    elif 1 <= number <= 100:
        raise BadQuantity(f"'{text}' has no unit: it may mean {number}% or {100 * number}%")
    if not 0 <= number <= 1:
        raise BadQuantity(f"'{text}' is not between 0% and 100%")
    return float(number)


def size(text: str) -> float | int:
    """A fraction of the input's size, a float, from ``50%``; or bytes, an int, from ``3MB`` or ``512KiB``.

    Raises:
        BadQuantity: It is neither, or a number without a unit.
    """
    kind, words = "a size such as 3MB or 50%", text.strip()
    if words.endswith("%"):
        ratio = _decimal(words[:-1], text, kind) / 100
        if ratio <= 0:
            raise BadQuantity(f"'{text}' is not {kind}")
        return float(ratio)
    return _in_units(text, _BYTES, kind, "{0}MB or {0}% of the input's size")


def n_bytes(text: str) -> int:
    """Bytes, from ``3MB`` or ``512KiB``.

    Raises:
        BadQuantity: It is no size, or a number without a unit.
    """
    return _in_units(text, _BYTES, "a size such as 200MB", "{0}MB or {0} bytes ({0}B)")


def nanoseconds(text: str) -> int:
    """Nanoseconds, from ``2ms``, ``500us`` or ``1.5s``.

    Raises:
        BadQuantity: It is no time, or a number without a unit.
    """
    return _in_units(text, _NANOSECONDS, "a time such as 2ms", "{0}ms or {0}s")


def _decimal(words: str, text: str, kind: str) -> Decimal:
    """A finite number; `text` is the whole of what was written."""
    try:
        number = +Decimal(words)  # rounded to what arithmetic can hold
    except ArithmeticError:
        number = Decimal("nan")
    if not number.is_finite():
        raise BadQuantity(f"'{text}' is not {kind}")
    return number


def _in_units(text: str, units: Mapping[str, int], kind: str, may_mean: str) -> int:
    """A number and its unit as a multiple of the smallest unit; `may_mean` says what it may be without a unit."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is not None and not match[2]:
        raise BadQuantity(f"'{text}' has no unit: it may mean {may_mean.format(Decimal(match[1]))}")
    if match is None or match[2].lower() not in units:
        raise BadQuantity(f"'{text}' is not {kind}")
    return int(Decimal(match[1]) * units[match[2].lower()])


def share_text(value: float) -> str:
    """A fraction as `share` and `size` read it: 0.01 is ``1%``."""
    return f"{_plain(Decimal(repr(float(value))) * 100)}%"


def bytes_text(count: int) -> str:
    """Bytes as `n_bytes` reads them, in the largest decimal unit that leaves at most three decimals."""
    return _largest_unit(count, {"GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1})


def time_text(ns: int) -> str:
    """Nanoseconds as `nanoseconds` reads them, in the largest unit that leaves at most three decimals."""
    return _largest_unit(ns, {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1})


def _largest_unit(count: int, units: Mapping[str, int]) -> str:
    for unit, scale in units.items():
        if count >= scale and count * 1000 % scale == 0:
            return f"{_plain(Decimal(count) / scale)}{unit}"
    return f"{count}{min(units, key=lambda unit: units[unit])}"


def _plain(number: Decimal) -> str:
    """Without an exponent, and without zeros behind the last digit."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class Allowed:
    """How large a figure may be: so much more than it was, as a fraction, or a value.

    Attributes:
        share: 0.03 is 3 % more; None where a value is given.
        absolute: The value, in the unit of the figure; None where a share is given.
        text: As it was written.
    """

    share: float | None
    absolute: int | None
    text: str

    def most(self, before: float) -> float:
        """The largest value allowed, where it was `before`."""
        return float(self.absolute) if self.absolute is not None else before * (1 + (self.share or 0.0))

    def __str__(self) -> str:
        return self.text


def allowed(text: str, parse: Callable[[str], int]) -> Allowed:
    """``+3%`` of what it was, or a value as `parse` reads it.

    Raises:
        BadQuantity: It is neither.
    """
    words = text.strip()
    if words.startswith("+"):
        return Allowed(share(words[1:]), None, words)
    if words.endswith("%") and not words.startswith("-"):
        raise BadQuantity(f"'{text}' may mean {words} more, or {words} of what it was: write +{words}")
    return Allowed(None, parse(words), words)
