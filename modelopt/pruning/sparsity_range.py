"""What a sparsity may be; a percentage that was written as a plain number is the most common mistake."""

from __future__ import annotations

import math

from modelopt.core.errors import InputError


def check(sparsity: float) -> None:
    """Refuse a sparsity that is no fraction.

    Raises:
        InputError: It is not in [0, 1).
    """
    if 0 <= sparsity < 1:
        return
    raise InputError(f"sparsity {sparsity} is not in [0, 1)", hint=meant_by(sparsity))


def meant_by(number: float) -> str:
    """What a number that is no fraction was probably meant to be: the percentage of what goes, or of what stays."""
    if not (math.isfinite(number) and 1 <= number < 100):
        return "--sparsity 0.5 halves the weights, or the channels"
    return (
        f"--sparsity {number:g}% takes {number:g} of 100 weights or channels away; to keep {number:g} of 100 write "
        f"--sparsity {100 - number:g}%"
    )
