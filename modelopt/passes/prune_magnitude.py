"""See `PruneMagnitude`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip, TensorError
from modelopt.core.errors import InputError
from modelopt.core.targets import usable_cores
from modelopt.passes.base import Pass, option
from modelopt.pruning import masks, sparsity_range
from modelopt.pruning.element_importance import ElementImportance
from modelopt.pruning.element_pruning import ElementPruning, PrunedWeight
from modelopt.pruning.tensors import select
from modelopt.pruning.weights import Weight, pattern_rows, reduction_rows
from modelopt.pruning.zero_counts import ZeroCounts

NOTE = (
    "onnxruntime stores and computes unstructured zeros like any other number: the file compresses better, the model "
    "does not run faster"
)

TENSORRT_NOTE = (
    "TensorRT computes 2:4 zeros of convolutions and products faster on NVIDIA GPUs since Ampere, where its flag for "
    "sparse weights is set; onnxruntime on CPUs computes them like any other number"
)

_DEFAULT_SPARSITY = 0.5
_NOTES = {"unstructured": NOTE, "2:4": TENSORRT_NOTE}


class Scope(Enum):
    """Which weights are compared.

    Attributes:
        LAYER: Those of each tensor by itself.
        GLOBAL: Those of all tensors together.
        ROW: Those that one output sums over.
    """

    LAYER = "layer"
    GLOBAL = "global"
    ROW = "row"


class SparsityPattern(Enum):
    """Where zeros are set: anywhere, or a fixed number in each group of consecutive weights."""

    UNSTRUCTURED = "unstructured"
    TWO_OF_FOUR = "2:4"
    FOUR_OF_EIGHT = "4:8"


_GROUPS = {SparsityPattern.TWO_OF_FOUR: (2, 4), SparsityPattern.FOUR_OF_EIGHT: (4, 8)}


@dataclass(frozen=True, kw_only=True)
class PruneMagnitude(Pass):
    """Set the weights of the smallest magnitude to zero, or those that matter least by another measure.

    Pruned are the weights of Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU and RNN in every scope, whether in
    initializers or Constant nodes, each tensor once; a tensor that several nodes share stays shared. Biases and tensors
    with one axis are not pruned. Unstructured pruning of n weights makes ``floor(sparsity · n)`` zeros, with those that
    are already there; of equal weights the one with the lower index comes first. The patterns ``2:4`` and ``4:8`` zero
    half of each group of consecutive weights (see `modelopt.pruning.weights.pattern_rows`): of a Conv those of
    consecutive input channels at one kernel position, of other operators those that one output sums over. They keep a
    remainder shorter than a group.

    With ``importance`` the weights are chosen by another measure (see `modelopt.pruning.element_importance`), and with
    ``update`` those that stay make up for those that went (see `modelopt.pruning.weight_update`). Both observe on
    calibration data what weights are multiplied by; a weight for which that cannot be is chosen by its magnitude.

    The facts count over the chosen tensors, and ``compressed_with`` says how ``compressed_before_bytes`` and
    ``compressed_after_bytes`` were measured. onnxruntime has no kernels for any of these patterns, as the fact ``note``
    says.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    sparsity: float = option(_DEFAULT_SPARSITY, "share of the weights to set to zero, at least 0 and below 1")
    scope: Scope = option(  # noqa: RUF009 - it is dataclasses.field
        Scope.LAYER,
        "find the smallest weights in each layer by itself (layer), in all layers together (global), or in each row of "
        "weights that one output sums over (row)",
    )
    pattern: SparsityPattern = option(  # noqa: RUF009 - it is dataclasses.field
        SparsityPattern.UNSTRUCTURED, "unstructured, or 2:4 or 4:8 zeros in groups"
    )
    importance: ElementImportance = option(  # noqa: RUF009 - it is dataclasses.field
        ElementImportance.MAGNITUDE,
        "how much a weight matters: magnitude or random; or by calibration data wanda, second-order or stability",
    )
    update: bool = option(default=False, text="fit the weights that stay to calibration data, so that less is lost")
    include: tuple[str, ...] = option((), "only nodes or tensors with these names: globs, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "not nodes or tensors with these names: globs, re:EXPRESSION or op:TYPE")
    min_elements: int = option(256, "leave tensors with fewer weights alone")

    def __post_init__(self) -> None:
        """Refuse options that are out of range or contradict each other."""
        sparsity_range.check(self.sparsity)
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

    def calibrates(self) -> bool:
        """Whether it observes on calibration data what weights are multiplied by."""
        return self.update or self.importance.needs_data

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Zero the weights of every tensor that the options select.

        Raises:
            InputError: A pattern names nothing, or the options need calibration data and there are none.
            Refused: onnxruntime does not run the model on the calibration data.
        """
        self._require_data(ctx)
        selection = select(model, include=self.include, exclude=self.exclude, min_elements=self.min_elements)
        skipped = [Skip(*refusal) for refusal in selection.refusals]
        counts = ZeroCounts(sum(weight.tensor.nbytes for weight in selection.weights))
        rows: list[Future[TensorError]] = []
        with ThreadPoolExecutor(usable_cores()) as pool:
            for pruned in self._pruned(model, selection.weights, ctx):
                weight, before = pruned.weight, pruned.weight.tensor.numpy()
                counts.add(before, pruned.array)
                if pruned.by_magnitude is not None:
                    skipped.append(Skip(weight.label, f"it is chosen by magnitude: {pruned.by_magnitude}"))
                if not np.any(before[pruned.mask] != 0):
                    skipped.append(Skip(weight.label, self._why_unchanged(weight, pruned.mask)))
                    continue
                graph.set_constant(weight.value, pruned.array)
                rows.append(pool.submit(_row_of, pruned))
        tensors = [row.result() for row in rows]
        note = _NOTES.get(self.pattern.value, NOTE)
        facts = counts.facts()
        return Changes(len(tensors), tuple(skipped), {**facts, "note": note} if facts else {}, tuple(tensors))

    def _require_data(self, ctx: Context) -> None:
        if not self.calibrates():
            return
        flag = f"importance {self.importance.value}" if self.importance.needs_data else "update"
        if ctx.calibration is None:
            hint = "--calib DATA, or --importance magnitude without --update, which needs none"
            raise InputError(f"{flag} needs calibration data", hint=hint)
        if len(ctx.calibration) == 0:
            raise InputError("the calibration data holds no sample", hint="--calib DATA with at least one sample")

    def _pruned(self, model: ir.Model, weights: Sequence[Weight], ctx: Context) -> Iterator[PrunedWeight]:
        by_data = ElementPruning(self.importance, update=self.update, seed=ctx.seed)
        if self.scope is Scope.GLOBAL:
            masked = dict(zip((weight.value for weight in weights), self._of_all(model, weights, ctx), strict=True))
            return by_data.prune(model, weights, lambda weight, _: masked[weight.value], ctx)
        return by_data.prune(model, weights, self._mask, ctx)

    def _of_all(self, model: ir.Model, weights: Sequence[Weight], ctx: Context) -> list[np.ndarray]:
        by_data = ElementPruning(self.importance, update=self.update, seed=ctx.seed)
        return masks.unstructured(by_data.scores(model, weights, ctx), self.sparsity)

    def _mask(self, weight: Weight, scores: np.ndarray) -> np.ndarray:
        """What becomes zero of one weight, in its shape."""
        if self.pattern in _GROUPS:
            zeros, group = _GROUPS[self.pattern]
            return _by_rows(pattern_rows, weight, scores, lambda rows: masks.n_of_m(rows, zeros, group))
        if self.scope is Scope.ROW:
            return _by_rows(reduction_rows, weight, scores, lambda rows: masks.in_rows(rows, self.sparsity))
        return masks.unstructured([scores], self.sparsity)[0]

    def _why_unchanged(self, weight: Weight, mask: np.ndarray) -> str:
        if mask.any():
            return "the weights to set to zero are zero already"
        if self.pattern in _GROUPS and weight.node.op_type == "Conv":
            return f"it has fewer than {_GROUPS[self.pattern][1]} input channels, which a group of weights would hold"
        return "no weight is to be set to zero"


def _by_rows(
    rows_of: Callable[[np.ndarray, Weight], np.ndarray],
    weight: Weight,
    scores: np.ndarray,
    choose: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The mask that `choose` makes of scores as rows, in the weight's shape."""
    places = rows_of(np.arange(scores.size).reshape(scores.shape), weight)
    mask = np.zeros(scores.size, bool)
    mask[places] = choose(scores.reshape(-1)[places])
    return mask.reshape(scores.shape)


def _row_of(pruned: PrunedWeight) -> TensorError:
    """The row of one weight in the report: the error of its outputs where that is known, else that of its numbers."""
    error, kind = pruned.error, "outputs"
    if error is None:
        before = pruned.weight.tensor.numpy()
        lost, whole = (_squares(part) for part in (before[pruned.mask], before))
        error, kind = lost / whole if 0 < whole < math.inf else None, "weight"  # squares can underflow or overflow
    return TensorError(
        name=pruned.weight.value.name or "",
        kind=kind,
        low=float(pruned.array.min()),
        high=float(pruned.array.max()),
        sqnr_db=-10 * math.log10(error) if error else None,
        sparsity=int((pruned.array == 0).sum()) / pruned.array.size,
    )


def _squares(array: np.ndarray) -> float:
    """The sum of the squares, as one product of vectors: much faster than squares in float64."""
    flat = array.reshape(-1).astype(np.float64 if array.dtype == np.float64 else np.float32, copy=False)
    return float(np.dot(flat, flat))
