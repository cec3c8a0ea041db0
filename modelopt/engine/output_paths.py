"""The name of an output: it says what is in the file, and is never the input's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelopt import io
from modelopt.core.changes import Effect
from modelopt.core.errors import InputError
from modelopt.report import PassResult


def require(model: Path, outputs: Sequence[Path | None]) -> None:
    """Refuse a bad path before the work.

    Raises:
        InputError: One of the outputs cannot be written to, or is the input.
    """
    for output in outputs:
        if output is None or output == io.STDIO:
            continue
        if io.same_file(model, output):
            raise InputError(
                f"the output {output} is the input",
                note="modelopt never overwrites its input",
                hint="give -o another name",
            )
        io.destination(output)


def choose(results: Sequence[PassResult], output: Path, if_exact: Path | None, if_unchanged: Path | None) -> Path:
    """Where the result goes.

    Args:
        results: What the passes did.
        output: Where a result goes in which a pass changed what the model computes.
        if_exact: Where one goes that only exact passes changed; None: `output`.
        if_unchanged: Where a copy of the input goes; None: `output`.
    """
    changed = {result.effect for result in results if result.rewrites}
    if not changed:
        return if_unchanged or output
    return (if_exact if changed == {Effect.EXACT.value} else None) or output
