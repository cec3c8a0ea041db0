"""`modelopt quantize --mode fp16` and ``bf16``: the recipe that they are."""

from __future__ import annotations

from typing import Any

from modelopt.cli.optimize import recipe_from_flags
from modelopt.errors import InputError
from modelopt.pipelines import EXACT, until_stable
from modelopt.recipe import DataSpec, Recipe, Step, make_pass

MODES = ("fp16", "bf16")


def half_recipe(
    mode: str,
    flags: dict[str, Any],
    *,
    calibration: DataSpec | None,
    target: str,
    keep_io_types: bool | None,
    patterns: dict[str, list[str]],
    only: bool,
) -> Recipe:
    """Fold and fuse, then convert to half precision.

    Args:
        mode: One of `MODES`.
        flags: What every optimizing command takes.
        calibration: Data that show where activations leave the range, if any.
        target: The machine that the result is for.
        keep_io_types: Whether inputs and outputs stay float32; None for the default.
        patterns: ``include`` and ``exclude``, where given.
        only: Leave out folding and fusing.

    Raises:
        InputError: Data that are of no use.
    """
    if mode == "bf16" and calibration is not None:
        raise InputError(
            "--mode bf16 needs no --calib",
            note="the range of bfloat16 is that of float32",
            hint="leave it out; --eval DATA compares outputs",
        )
    kept = {} if keep_io_types is None else {"keep-io-types": keep_io_types}
    convert = make_pass("convert-half", {"type": mode, **kept, **patterns})
    steps: list[Step] = [convert] if only else [until_stable(EXACT), convert]
    return recipe_from_flags("quantize", steps, flags, calibration=calibration, target=target)


def refuse_integer(mode: str, integer: dict[str, bool]) -> None:
    """Refuse flags of the integer modes.

    Args:
        mode: Another mode.
        integer: The flags, and whether each was given.

    Raises:
        InputError: One of them was given.
    """
    for flag, given in integer.items():
        if given:
            raise InputError(f"{flag} is for int8", hint=f"leave it out, or leave out --mode {mode}")
