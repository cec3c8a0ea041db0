"""Ways to quantize that are tried when the one that was asked for costs too much accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from modelopt.passes.base import Pass
from modelopt.passes.equalize_layers import EqualizeLayers
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.passes.smooth_activations import SmoothActivations
from modelopt.quant.feedback import Rounding
from modelopt.quant.methods import Method


def repairs(asked: Pass) -> Iterator[tuple[Pass | None, Pass]]:
    """What to do first, if anything, and the pass to try in place of `asked`; the cheapest come first.

    Ranges by another method come from the same observations; then biases are corrected; then ranges are made alike by
    exact rewrites, which need observations of their own; last, weights are rounded with error feedback.
    """
    if not isinstance(asked, QuantizeStatic):
        return
    for method in (Method.MINMAX, Method.MSE, Method.PERCENTILE):
        if method is not asked.method:
            yield None, dataclasses.replace(asked, method=method)
    corrected = dataclasses.replace(asked, correct_bias=True)
    yield None, corrected
    yield EqualizeLayers(), corrected
    yield SmoothActivations(), corrected
    yield None, dataclasses.replace(corrected, rounding=Rounding.GPTQ)
