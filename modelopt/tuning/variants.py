"""Ways to quantize that are tried when the one that was asked for costs too much accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from modelopt.passes.base import Pass
from modelopt.passes.equalize_layers import EqualizeLayers
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.passes.smooth_activations import SmoothActivations
from modelopt.quant.methods import Method
from modelopt.recipe import Step, UntilStable


def repairs(asked: Pass) -> Iterator[tuple[Step, ...]]:
    """Steps to try in place of `asked`, the cheapest first.

    Ranges by another method come from the same observations; then biases are corrected; then ranges are made alike by
    exact rewrites before quantization, which need observations of their own.
    """
    if not isinstance(asked, QuantizeStatic):
        return
    for method in (Method.MINMAX, Method.MSE, Method.PERCENTILE):
        if method is not asked.method:
            yield (dataclasses.replace(asked, method=method),)
    corrected = dataclasses.replace(asked, correct_bias=True)
    yield (corrected,)
    yield EqualizeLayers(), corrected
    yield SmoothActivations(), corrected


def even_unpaid(step: Any) -> dict[str, bool]:
    """The option that quantizes nodes that do not pay, too: an error is to be measured, not a gain."""
    return {"everywhere": True} if hasattr(step, "everywhere") else {}


def name_of_step(step: Step) -> str:
    """A step by its own name and options; a group by its passes."""
    return " ".join(map(str, step.passes)) if isinstance(step, UntilStable) else str(step)
