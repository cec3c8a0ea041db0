"""`modelopt quantize --mode weights` and ``storage``: the recipes that they are."""

from __future__ import annotations

from typing import Any

from modelopt.cli.optimize import recipe_from_flags
from modelopt.errors import InputError
from modelopt.pipelines import EXACT, until_stable
from modelopt.recipe import DataSpec, Recipe, Step, make_pass

MODES = ("weights", "storage")
_PASSES = {"weights": "quantize-weights", "storage": "store-weights"}


def weights_recipe(
    mode: str,
    flags: dict[str, Any],
    own: dict[str, Any],
    *,
    calibration: DataSpec | None,
    target: str,
    patterns: dict[str, list[str]],
    only: bool,
) -> Recipe:
    """Fold and fuse, then store weights in few bits.

    Args:
        mode: One of `MODES`.
        flags: What every optimizing command takes.
        own: Options of quantize-weights by their written names; None where not given.
        calibration: Data for gptq.
        target: The machine that the result is for.
        patterns: ``include`` and ``exclude``, where given.
        only: Leave out folding and fusing.

    Raises:
        InputError: Data are missing or of no use, or an option is not of this mode.
    """
    needs_data = mode == "weights" and own["method"] == "gptq"
    if mode == "storage":
        refuse_given(own, mode)
    if needs_data and calibration is None:
        raise InputError("gptq needs calibration data", hint="--calib data/, or --weight-method hqq, which needs none")
    if calibration is not None and not needs_data:
        raise InputError(f"--mode {mode} needs no --calib", hint="leave it out, or --mode weights --weight-method gptq")
    chosen = {key: value for key, value in own.items() if value is not None}
    step = make_pass(_PASSES[mode], {**chosen, **patterns})
    steps: list[Step] = [step] if only else [until_stable(EXACT), step]
    return recipe_from_flags("quantize", steps, flags, calibration=calibration, target=target)


def refuse_given(own: dict[str, Any], mode: str) -> None:
    """Refuse options of quantize-weights in another mode.

    Raises:
        InputError: One of them was given.
    """
    names = {"bits": "--bits", "block-size": "--block-size", "method": "--weight-method", "form": "--weight-form"}
    for key, flag in names.items():
        if own[key] is not None:
            raise InputError(f"{flag} is for --mode weights", note=f"the mode is {mode}")
