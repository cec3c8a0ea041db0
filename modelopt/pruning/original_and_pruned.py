"""Runs the original beside the pruned model on the calibration samples, only as far as a value is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, tee

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import InputError

SAMPLES = 128
"""How many samples are run, at most."""


def sample_count(ctx: Context) -> int:
    """How many samples are run.

    Raises:
        InputError: There are no calibration data.
    """
    if ctx.calibration is None or len(ctx.calibration) == 0:
        raise InputError("this needs calibration data", hint="--calib data/")
    return min(SAMPLES, len(ctx.calibration))


def feeds(ctx: Context) -> Iterator[Mapping[str, np.ndarray]]:
    """The first samples."""
    for sample in islice(ctx.calibration or (), SAMPLES):
        yield sample.feeds


def run_to(model: ir.Model, names: Sequence[str], ctx: Context) -> Iterator[dict[str, np.ndarray]]:
    """The values of these names, sample by sample; inputs of the model may be among them.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    given = {value.name for value in model.graph.inputs}
    wanted = [name for name in dict.fromkeys(names) if name not in given]
    first, second = tee(feeds(ctx))
    if not wanted:
        yield from ({name: feed[name] for name in names} for feed in first)
        return
    shown = graph.prefix(model, wanted)
    for feed, arrays in zip(first, ctx.runner.run(shown, second, outputs=wanted), strict=True):
        yield {**dict(zip(wanted, arrays, strict=True)), **{name: feed[name] for name in names if name in given}}
