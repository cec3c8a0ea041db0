"""See `SmoothActivations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError
from modelopt.graph.match import Mismatch
from modelopt.passes.base import Pass, option
from modelopt.quant.correction.cross_layer_equalization import LinearLayer
from modelopt.quant.correction.smoothquant import SmoothableActivation, column_maxima, smoothable

_ROUNDS = 32


@dataclass(frozen=True, kw_only=True)
class SmoothActivations(Pass):
    """Move outlier channels of activations into the weights that read them, before int8 (SmoothQuant).

    Xiao et al. 2022, arXiv:2211.10438. The activation X is the result of a normalization, of a Mul (and Add) by
    constants, or of a product, and only Gemm and MatMul by constants read it. Its column j is divided by
    ``s_j = max|X_j| ** alpha / max|W_j| ** (1 - alpha)``, and row j of their weights is multiplied by it. The maxima of
    the activations are measured on calibration data. s_j is rounded to a power of two, so that the outputs are the same
    to the last bit.

    Refused: activations that other nodes read as well (a residual sum behind a normalization), and shared constants.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    needs_data: ClassVar[bool] = True

    alpha: float = option(0.5, "how much of the activations' range moves into the weights, from 0 to 1")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Smooth every activation of the main graph that products read.

        Raises:
            InputError: `alpha` makes no sense, or there is no calibration data.
            Refused: onnxruntime does not run the model.
        """
        if not 0.0 <= self.alpha <= 1.0:
            raise InputError(f"alpha is {self.alpha}", hint="a number from 0 to 1, such as 0.5")
        sites, skipped = _sites(model)
        if not sites:
            return Changes(skipped=tuple(skipped))
        if ctx.calibration is None:
            raise InputError("smooth-activations needs calibration data", hint="--calib data/")
        largest = column_maxima(model, [one.value for one in sites], ctx)
        plans: dict[SmoothableActivation, _Columns] = {}
        for one in sites:
            name = one.value.name or ""
            if np.isnan(largest[name]).any() or largest[name].shape != (one.width,):
                skipped.append(Skip(name, "held NaN, infinities or a mask in calibration"))
            else:
                plans[one] = _Columns(largest[name], np.zeros(one.width, np.int64))
        for _ in range(_ROUNDS):  # a product between two activations has a weight that both change
            if not any([self._smooth(one, columns) for one, columns in plans.items()]):  # noqa: C419 - each takes its step
                break
        channels = [int(np.count_nonzero(columns.exponents)) for columns in plans.values()]
        facts = {"activations": len(sites), "channels_scaled": sum(channels)}
        return Changes(sum(count > 0 for count in channels), tuple(skipped), facts)

    def _smooth(self, one: SmoothableActivation, columns: _Columns) -> bool:
        exponents = one.exponents(columns.largest, self.alpha)
        if not exponents.any() or not one.move(exponents):
            return False
        columns.largest = np.ldexp(columns.largest, -exponents)
        columns.exponents += exponents
        return True


@dataclass
class _Columns:
    """The columns of an activation: max|X_j| now, and the powers of two that they were divided by."""

    largest: np.ndarray
    exponents: np.ndarray


def _sites(model: ir.Model) -> tuple[list[SmoothableActivation], list[Skip]]:
    sites: list[SmoothableActivation] = []
    skipped: list[Skip] = []
    layers: dict[ir.Node, LinearLayer] = {}
    seen: set[ir.Value] = set()
    for node in graph.all_nodes(model):
        if not (graph.is_standard(node, "Gemm") or graph.is_standard(node, "MatMul")):
            continue
        value = node.inputs[0]
        if value is None or value in seen or graph.constant_tensor(value) is not None:
            continue
        seen.add(value)
        found = (
            _root(value, layers) if node.graph is model.graph else Mismatch("inside a control-flow body or a function")
        )
        if isinstance(found, Mismatch):
            skipped.append(Skip(graph.label(node), f"its input {value.name}: {found.reason}"))
        elif found.value not in {one.value for one in sites}:
            sites.append(found)
    return sites, skipped


def _root(value: ir.Value, layers: dict[ir.Node, LinearLayer]) -> SmoothableActivation | Mismatch:
    """The activation that `value` comes from: a Reshape of an activation holds the same numbers."""
    node = value.producer()
    while node is not None and graph.is_standard(node, "Reshape") and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return smoothable(value, layers)
