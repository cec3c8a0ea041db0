"""The verification in words: the lines below the table of figures."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modelopt.core.plural import counted
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.measure.stability import said
from modelopt.report import Report, Verification


def verification_lines(report: Report) -> Iterator[str]:
    """What exact passes were compared on, how equal the outputs are, and what was not compared."""
    verification = report.verification
    if verification is None:
        yield "Not verified (--no-verify): nothing was compared with the original."
        return
    if verification.unproved is not None and verification.unproved != NOTHING_COMPARED:
        note = f" ({verification.why})" if verification.why else ""
        yield f"NOT VERIFIED: {verification.unproved}{note}."
        if verification.hint:
            yield f"hint: {verification.hint}"
        return
    if verification.unstable and report.accuracy is None:  # else the accuracy says it
        yield f"note: {said(verification.unstable, range(len(verification.unstable)))}"
    if not verification.exact_segments:
        return
    error = verification.max_relative_error
    empty = counted(verification.empty, "feed")
    if error is None:
        yield f"NOT VERIFIED: no output element was compared. The original's outputs are empty on {empty}."
        return
    found = f"within {error_bound(error)} of each output's scale" if error else "bit for bit"
    yield f"Verified the exact passes on {_feeds(verification)}: equal {found}."
    missed = list(verification.not_executed)
    missed += [f"anything on {empty} whose outputs are empty"] if verification.empty else []
    if missed:
        yield f"Not executed or compared: {'; '.join(missed)}."
    if verification.finite_only:
        names = ", ".join(verification.finite_only)
        yield f"These passes changed outputs for NaN and infinities, as they declare: {names}."


def _feeds(verification: Verification) -> str:
    """The number and source of the feeds, in words."""
    real = f"real ({verification.source})"
    if not verification.constructed:
        return counted(verification.real, f"{real} feed")
    constructed = counted(verification.constructed, "constructed feed")
    return f"{verification.real} {real} and {constructed}" if verification.real else constructed


def error_bound(error: float) -> str:
    """The smallest of 1, 2 and 5 times a power of ten that is not below the error."""
    exponent = math.floor(math.log10(error))
    steps = (step * 10.0**exponent for step in (1, 2, 5, 10))
    return f"{next(step for step in steps if step >= error * (1 - 1e-9)):.0e}".replace("e-0", "e-")
