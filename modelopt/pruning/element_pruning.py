"""Sets weights to zero by what calibration data say of their inputs, layer by layer from input to output.

Layers are worked on in a few stages. The inputs of a stage are observed with the zeros of the stages before it, so that
its weights are fitted to what they will really be multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.core.ahead import in_order
from modelopt.pruning import element_importance, input_moments, masks, weight_update
from modelopt.pruning.element_importance import ElementImportance
from modelopt.pruning.input_moments import InputMoments
from modelopt.pruning.input_rows import InputRows, rows_of
from modelopt.pruning.weights import Weight, reduction_rows

_STAGES = 8  # each is a run of the model over the samples (a guess)
_ROUNDS = 4  # in which zeros are set while the other weights make up for them
_MOST_BYTES = 256 << 20  # of Gram matrices at a time

Choose = Callable[[Weight, np.ndarray], np.ndarray]
"""From the scores of a weight to the mask of what becomes zero, both in its shape."""


@dataclass(frozen=True)
class PrunedWeight:
    """What became of one weight.

    Attributes:
        weight: The weight before.
        array: The weight after, in its shape and dtype.
        mask: What was chosen to be zero, in its shape.
        error: The squared error of its outputs over their square, on calibration data; None where that is not known.
        by_magnitude: Why its inputs had no part in the choice; None where they had.
    """

    weight: Weight
    array: np.ndarray
    mask: np.ndarray
    error: float | None = None
    by_magnitude: str | None = None


@dataclass(frozen=True)
class ElementPruning:
    """How to prune by data.

    Attributes:
        importance: How much a weight matters.
        update: Whether the weights that stay are fitted anew.
        seed: For RANDOM.
    """

    importance: ElementImportance
    update: bool
    seed: int = 0

    @property
    def needs_data(self) -> bool:
        """Whether it observes the inputs of weights."""
        return self.update or self.importance.needs_data

    def prune(self, model: ir.Model, weights: Sequence[Weight], choose: Choose, ctx: Context) -> Iterator[PrunedWeight]:
        """Prune `weights` in order. Where data are needed, the caller stores each before it asks for the next.

        Args:
            model: What is run; it changes as the caller stores weights.
            weights: In the order of the model's nodes.
            choose: Which scores to set to zero.
            ctx: Lends the runner, the samples and the progress.

        Raises:
            Refused: onnxruntime does not run the model on the samples.
        """
        if not self.needs_data:
            calls = [partial(self._pruned, weight, None, None, index, choose) for index, weight in enumerate(weights)]
            for index, pruned in enumerate(in_order(calls)):
                yield pruned
                ctx.progress("pruning", index + 1, len(weights))
            return
        done = 0
        for stage in self._stages(model, weights):
            found = self._observed(model, [read for _, read in stage], ctx)
            for index, (weight, read) in enumerate(stage, done):
                moments = None if isinstance(read, str) else found.get(read)
                why = read if isinstance(read, str) else None
                yield self._pruned(weight, moments, why, index, choose)
                ctx.progress("pruning", index + 1, len(weights))
            done += len(stage)

    def scores(self, model: ir.Model, weights: Sequence[Weight], ctx: Context) -> list[np.ndarray]:
        """Scores of all weights, of the model as it is, that can be compared: shares of what each layer gives.

        Returns:
            For each weight float32, or float64 for its magnitude in float64, in its shape.
        """
        made: list[np.ndarray] = []
        for stage in self._stages(model, weights):
            found = self._observed(model, [read for _, read in stage], ctx)
            for weight, read in stage:
                moments = None if isinstance(read, str) else found.get(read)
                scores = self._scores(weight, moments, len(made))
                made.append(self._share(weight, scores, moments) if self.importance.needs_data else scores)
        return made

    def _share(self, weight: Weight, scores: np.ndarray, moments: InputMoments | None) -> np.ndarray:
        """Scores as shares of what the whole layer gives."""
        if moments is None:
            whole = np.square(scores, dtype=np.float64)
            return np.asarray(whole / (whole.sum() or 1.0), np.float32)
        inputs = element_importance.input_weights(ElementImportance.WANDA, moments)
        total = element_importance.scores(_in_rows(weight), inputs).sum()
        return np.asarray(scores / (total or 1.0), np.float32)

    def _stages(self, model: ir.Model, weights: Sequence[Weight]) -> Iterator[list[tuple[Weight, InputRows | str]]]:
        stage: list[tuple[Weight, InputRows | str]] = []
        sizes: dict[InputRows, int] = {}
        for weight in weights:
            read = self._read(weight, model.graph)
            size = 0 if isinstance(read, str) else 4 * read.groups * read.width**2
            full = len(stage) >= -(-len(weights) // _STAGES)
            if stage and (full or (read not in sizes and sum(sizes.values()) + size > _MOST_BYTES)):
                yield stage
                stage, sizes = [], {}
            stage.append((weight, read))
            if not isinstance(read, str):
                sizes[read] = size
        if stage:
            yield stage

    def _read(self, weight: Weight, main: ir.Graph) -> InputRows | str:
        """What the weight is multiplied by; a text says why that is not observed."""
        if not self.needs_data:
            return "no data are needed"
        return rows_of(weight, main) if np.isfinite(weight.tensor.numpy()).all() else "it holds infinities"

    def _observed(
        self, model: ir.Model, reads: Sequence[InputRows | str], ctx: Context
    ) -> Mapping[InputRows, InputMoments]:
        """The moments of those that can be observed, and that were reached by a sample."""
        inputs = [read for read in dict.fromkeys(reads) if not isinstance(read, str)]
        if not inputs:
            return {}
        found = input_moments.observe(model, inputs, ctx, with_gram=self._with_gram)
        return {read: moments for read, moments in found.items() if moments.rows}

    @property
    def _with_gram(self) -> bool:
        return self.update or self.importance is ElementImportance.SECOND_ORDER

    def _scores(self, weight: Weight, moments: InputMoments | None, index: int) -> np.ndarray:
        """Scores in the weight's shape."""
        array = weight.tensor.numpy()
        if self.importance is ElementImportance.RANDOM:
            return np.random.default_rng((self.seed, index)).random(array.shape, np.float32)
        if moments is None or self.importance is ElementImportance.MAGNITUDE:
            return masks.magnitude(array)
        rows = _in_rows(weight)
        return _back(element_importance.scores(rows, *self._measure(weight, rows, moments)), weight)

    def _measure(self, weight: Weight, rows: np.ndarray, moments: InputMoments) -> tuple[np.ndarray, np.ndarray | None]:
        """The parts of the scores that do not change with the weights: of the inputs and of the outputs."""
        inputs = element_importance.input_weights(self.importance, moments)
        if self.importance is not ElementImportance.SECOND_ORDER:
            return inputs, None
        is_convolution = weight.node.op_type in {"Conv", "ConvTranspose"}
        return inputs, element_importance.row_energies(rows, moments, is_convolution=is_convolution)

    def _pruned(
        self, weight: Weight, moments: InputMoments | None, why: str | None, index: int, choose: Choose
    ) -> PrunedWeight:
        array = weight.tensor.numpy()
        mask = choose(weight, self._scores(weight, moments, index))
        reason = None if moments is not None or not self.needs_data else why or "no sample reached it"
        if moments is None or not self._with_gram or not np.any(array[mask] != 0):
            return PrunedWeight(weight, np.where(mask, np.zeros((), array.dtype), array), mask, by_magnitude=reason)
        rows, grams = _in_rows(weight), moments.gram()
        gone = reduction_rows(mask, weight)
        new = np.where(gone, 0.0, rows)
        if self.update:
            new, gone = self._updated(weight, rows, moments, gone, choose)
            mask = _back(gone, weight)
        error = weight_update.relative_error(rows, new, grams)
        stored = _back(new, weight).astype(array.dtype)
        # What stays must not become zero, or infinite, by rounding to the dtype: the number of zeros is exact.
        lost = ~mask & ((stored == 0) | ~np.isfinite(stored))
        return PrunedWeight(weight, np.where(lost, array, stored), mask, error)

    def _updated(
        self, weight: Weight, rows: np.ndarray, moments: InputMoments, gone: np.ndarray, choose: Choose
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights after the update, and what is zero, as (rows, k).

        Where the importance follows the weights, it does so in rounds: a part of the zeros is set, the others make up
        for them, and the next ones are chosen by what the weights are then.
        """
        grams = moments.gram()
        if self.importance is not ElementImportance.SECOND_ORDER:
            return weight_update.updated(rows, gone | (rows == 0), grams), gone
        measure = self._measure(weight, rows, moments)
        count, new = int(gone.sum()), rows
        gone = np.zeros(rows.shape, bool)
        for part in range(1, _ROUNDS + 1):
            scores = np.where(gone, -1.0, element_importance.scores(new, *measure))
            chosen = reduction_rows(choose(weight, _back(scores, weight)), weight)
            few = masks.smallest(np.where(chosen, scores, np.inf), count * part // _ROUNDS)
            gone = chosen if part == _ROUNDS else few
            new = weight_update.updated(rows, gone | (rows == 0), grams, thoroughly=part == _ROUNDS)
        return new, gone


def _in_rows(weight: Weight) -> np.ndarray:
    """The weight in float64 as (rows, k)."""
    return reduction_rows(weight.tensor.numpy().astype(np.float64), weight)


def _back(rows: np.ndarray, weight: Weight) -> np.ndarray:
    """Numbers as (rows, k), in the weight's shape: the way back from `reduction_rows`."""
    shape = weight.tensor.shape.numpy()
    places = reduction_rows(np.arange(weight.tensor.size).reshape(shape), weight)
    array = np.empty(weight.tensor.size, rows.dtype)
    array[places] = rows
    return array.reshape(shape)
