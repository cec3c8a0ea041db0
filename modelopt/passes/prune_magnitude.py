"""See `PruneMagnitude`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.core.errors import InputError
from modelopt.passes.base import Pass, option
from modelopt.pruning import masks
from modelopt.pruning.tensors import select
from modelopt.pruning.weights import Weight, reduction_rows

NOTE = (
    "onnxruntime stores and computes unstructured zeros like any other number: the file compresses better, the model "
    "does not run faster"
)

_COMPRESSION_LEVEL = 6
_DEFAULT_SPARSITY = 0.5


class Scope(Enum):
    """Which weights are compared: those of each tensor by itself, or those of all tensors together."""

    LAYER = "layer"
    GLOBAL = "global"


class SparsityPattern(Enum):
    """Where zeros are set: anywhere, or a fixed number in each group of consecutive weights."""

    UNSTRUCTURED = "unstructured"
    TWO_OF_FOUR = "2:4"
    FOUR_OF_EIGHT = "4:8"


_GROUPS = {SparsityPattern.TWO_OF_FOUR: (2, 4), SparsityPattern.FOUR_OF_EIGHT: (4, 8)}


@dataclass(frozen=True, kw_only=True)
class PruneMagnitude(Pass):
    """Set the weights of the smallest magnitude to zero.

    Pruned are the weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN in every scope, whether in
    initializers or Constant nodes, each tensor once; a tensor that several nodes share stays shared. Biases and tensors
    with one axis are not pruned. Unstructured pruning of n weights makes ``floor(sparsity · n)`` zeros, with those that
    are already there; of equal weights the one with the lower index comes first. The patterns ``2:4`` and ``4:8`` zero
    half of each group of consecutive weights that one output sums over (see `modelopt.pruning.weights.reduction_rows`),
    and keep a remainder shorter than a group.

    The facts count over the chosen tensors; ``compressed_before_bytes`` and ``compressed_after_bytes`` are the sizes of
    their raw bytes, one after the other, compressed by zlib at level 6. onnxruntime has no kernels for any of these
    patterns, as the fact ``note`` says.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    sparsity: float = option(_DEFAULT_SPARSITY, "share of the weights to set to zero, at least 0 and below 1")
    scope: Scope = option(  # noqa: RUF009 - it is dataclasses.field
        Scope.LAYER, "find the smallest weights in each layer by itself (layer), or in all layers together (global)"
    )
    pattern: SparsityPattern = option(  # noqa: RUF009 - it is dataclasses.field
        SparsityPattern.UNSTRUCTURED, "unstructured, or 2:4 or 4:8 zeros in groups"
    )
    include: tuple[str, ...] = option((), "only nodes or tensors with these names: globs, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "not nodes or tensors with these names: globs, re:EXPRESSION or op:TYPE")
    min_elements: int = option(256, "leave tensors with fewer weights alone")

    def __post_init__(self) -> None:
        """Refuse options that are out of range or contradict each other."""
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity {self.sparsity} is not in [0, 1)", hint="--sparsity 0.5 halves the weights")
        if self.pattern is SparsityPattern.UNSTRUCTURED:
            return
        if self.sparsity != _DEFAULT_SPARSITY:
            raise InputError(
                f"sparsity {self.sparsity} does not go with pattern {self.pattern.value}",
                note="the pattern decides how many zeros there are",
                hint="drop one of --sparsity and --pattern",
            )
        if self.scope is not Scope.LAYER:
            raise InputError(
                f"scope {self.scope.value} does not go with pattern {self.pattern.value}",
                note="the pattern holds in each group of weights",
                hint="drop one of --scope and --pattern",
            )

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Zero the weights of every tensor that the options select."""
        selection = select(model, include=self.include, exclude=self.exclude, min_elements=self.min_elements)
        skipped = [Skip(*refusal) for refusal in selection.refusals]
        chosen = self._masks(selection.weights)
        before, after = _Totals(), _Totals()
        rewrites = 0
        for weight, mask in zip(selection.weights, chosen, strict=True):
            array = weight.tensor.numpy()
            pruned = np.where(mask, np.zeros((), array.dtype), array)
            before.add(array)
            after.add(pruned)
            if not np.any(array[mask] != 0):
                reason = (
                    "the weights to set to zero are zero already" if mask.any() else "no weight is to be set to zero"
                )
                skipped.append(Skip(weight.label, reason))
                continue
            graph.set_constant(weight.value, pruned)
            rewrites += 1
        return Changes(rewrites, tuple(skipped), _facts(before, after))

    def _masks(self, weights: Sequence[Weight]) -> list[np.ndarray]:
        scores = [masks.magnitude(weight.tensor.numpy()) for weight in weights]
        if self.pattern in _GROUPS:
            return [_mask_in_groups(*pair, *_GROUPS[self.pattern]) for pair in zip(weights, scores, strict=True)]
        if self.scope is Scope.GLOBAL:
            return masks.unstructured(scores, self.sparsity)
        return [masks.unstructured([each], self.sparsity)[0] for each in scores]


def _mask_in_groups(weight: Weight, scores: np.ndarray, zeros: int, group: int) -> np.ndarray:
    positions = reduction_rows(np.arange(scores.size).reshape(scores.shape), weight)
    mask = np.zeros(scores.size, bool)
    mask[positions[masks.n_of_m(reduction_rows(scores, weight), zeros, group)]] = True
    return mask.reshape(scores.shape)


class _Totals:
    """Counts over the tensors that are added, and the size that zlib compresses them to."""

    def __init__(self) -> None:
        self.elements = self.zeros = self._compressed_bytes = 0
        self._zlib = zlib.compressobj(_COMPRESSION_LEVEL)

    def add(self, array: np.ndarray) -> None:
        self.elements += array.size
        self.zeros += array.size - int(np.count_nonzero(array))
        self._compressed_bytes += len(self._zlib.compress(array.tobytes()))

    def compressed_bytes(self) -> int:
        """Call it once, at the end."""
        return self._compressed_bytes + len(self._zlib.flush())


def _facts(before: _Totals, after: _Totals) -> dict[str, Fact]:
    if not after.elements:
        return {}
    return {
        "sparsity": after.zeros / after.elements,
        "zeros": after.zeros,
        "elements": after.elements,
        "compressed_before_bytes": before.compressed_bytes(),
        "compressed_after_bytes": after.compressed_bytes(),
        "note": NOTE,
    }
