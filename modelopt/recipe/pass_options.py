"""Makes a pass of its name and its options, as a recipe or a command line writes them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec

from modelopt import passes
from modelopt.core.errors import InputError, did_you_mean
from modelopt.passes.base import Pass
from modelopt.quant.static.overrides import Overrides


class BadOption(InputError):
    """An option that a pass does not have, or a value that it does not take; `option` is the option's written name."""

    def __init__(self, option: str, fact: str, *, note: str | None = None, hint: str | None = None) -> None:
        super().__init__(fact, note=note, hint=hint)
        self.option = option


def make_pass(name: str, options: dict[str, Any]) -> Pass:
    """The pass called `name` with `options` by their written names (``per-channel``).

    Raises:
        InputError: No such pass, no such option, or a value of the wrong kind.
    """
    kind = passes.find(name)
    known = {f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
    for key in options:
        if key not in known:
            raise BadOption(
                key,
                f"unknown option '{key}' of {name}",
                note=f"options: {', '.join(known)}" if known else f"{name} has no options",
                hint=did_you_mean(key, known),
            )
    try:
        plain = {known[key].name: value for key, value in options.items()}
        return msgspec.convert(plain, kind, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        place = path.rstrip("`").replace("_", "-")
        note = f"{place}: {text}" if place else text
        raise BadOption(re.split(r"[.\[]", place)[0], f"bad option of {name}", note=note) from None


def _decode(kind: type, plain: Any) -> Any:
    """Converts the one option type that msgspec does not know."""
    if kind is not Overrides:
        raise NotImplementedError(f"no option is a {kind.__name__}")
    try:
        return Overrides.parse(plain)
    except InputError as error:
        raise BadOption("override", error.fact, note=error.note, hint=error.hint) from None
