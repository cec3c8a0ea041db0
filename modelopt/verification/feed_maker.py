"""Makes feeds of several sizes, scales and signs, and of the numbers that the graph compares inputs with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelopt.core.signature import FIRST, Signature, TensorSpec, is_free, symbol_of, symbols_of
from modelopt.data.dtypes import holds_floats, numpy_dtype
from modelopt.data.synthetic import NUMERALS, Words, shapes_of
from modelopt.verification.feed_values import draw_booleans, draw_floats, draw_integers, draw_strings
from modelopt.verification.feeds import Feed, Shape, Values
from modelopt.verification.fitting import Fit, Integers, free_names, is_few
from modelopt.verification.input_uses import InputUse

_EIGHT_BITS = 8


@dataclass(frozen=True)
class Maker:
    """Makes feeds for the inputs of a model.

    Attributes:
        signature: The model's.
        uses: What the graph does with its inputs.
        seed: With its number and its values it determines a feed.
        fit: How the inputs depend on each other.
    """

    signature: Signature
    uses: Mapping[str, InputUse]
    seed: int
    fit: Fit = field(default_factory=Fit)

    @property
    def has_floats(self) -> bool:
        """Whether some input holds floats, which have scales and signs."""
        return any(holds_floats(spec) for spec in self.signature.inputs)

    @property
    def has_constants(self) -> bool:
        """Whether the graph compares an input with a number."""
        return any(self._use(spec).constants for spec in self.signature.inputs)

    def constants(self) -> tuple[float, ...]:
        """The numbers that the graph compares inputs of floats with, and the numbers one below and above them."""
        asked = [
            constant for spec in self.signature.inputs if holds_floats(spec) for constant in self._use(spec).constants
        ]
        return tuple(dict.fromkeys(constant + step for constant in asked for step in (1.0, -1.0, 0.0)))

    @property
    def has_free_batch(self) -> bool:
        """Whether some input's first axis is free."""
        return any(spec.shape and is_free(spec.shape[0]) for spec in self.signature.inputs)

    def free_lengths(self) -> tuple[str, ...]:
        """Names of the free dimensions that are not the batch and depend on no other; unnamed ones as ``?``."""
        batch = symbols_of(self.signature.inputs, FIRST)
        dims = [dim for spec in self.signature.inputs for dim in (spec.shape or ())[1:] if is_free(dim)]
        names = dict.fromkeys(symbol or "?" for symbol in map(symbol_of, dims) if symbol not in batch)
        return tuple(name for name in names if not self.fit.is_tied(name))

    def count_values(self, shape: Shape) -> int:
        """How many values a feed of these sizes has."""
        return sum(math.prod(each) for each in self.shapes(shape, shape.batch))

    def ranges(self, shape: Shape) -> dict[str, tuple[int, int]]:
        """The range of integers of each input, both ends included, by its name; inputs without a range are left out."""
        found = {}
        for spec in self.signature.inputs:
            use = self._use(spec)
            lone = self._lone(spec, shape)
            if lone is not None and lone == round(lone):
                found[spec.name] = (round(lone), round(lone))
            elif use.is_bounded and self.fit.integers is not Integers.PLAIN:
                found[spec.name] = use.integers()
            elif self.fit.integers is Integers.ONES and not holds_floats(spec):
                found[spec.name] = (1, 1)
        return found

    def make(self, number: int, shape: Shape, values: Sequence[Values]) -> Feed:
        """A feed.

        Args:
            number: The number of the feed: it seeds the draw, and selects the value of a single integer.
            shape: Its sizes.
            values: One entry for each row of the batch, or one for all.

        Raises:
            InputError: An input has an unknown rank, or it would be larger than memory should hold.
            Refused: An input is a string, or no tensor.
        """
        sizes = [self.shapes(shape, batch) for batch in (1, 2)]
        whole = sizes[shape.batch - 1] if shape.batch <= len(sizes) else self.shapes(shape, shape.batch)
        arrays = {}
        for position, spec in enumerate(self.signature.inputs):
            rng = np.random.default_rng([self.seed, number, position])
            axis = _different(sizes[0][position], sizes[1][position])
            kinds = list(values) if axis is not None and len(values) == shape.batch else [values[0]]
            part = sizes[0][position] if len(kinds) > 1 else whole[position]
            lone = self._lone(spec, shape)
            rows = [
                self._draw(rng, spec, part, kind, number) if lone is None else np.full(part, lone, numpy_dtype(spec))
                for kind in kinds
            ]
            arrays[spec.name] = rows[0] if axis is None or len(rows) == 1 else np.concatenate(rows, axis=axis)
        found = {"": shape.batch} if self.has_free_batch else {}
        return Feed(
            arrays, tuple(values), found | {name: shape.lengths.get(name, shape.length) for name in self.free_lengths()}
        )

    def shapes(self, shape: Shape, batch: int) -> tuple[tuple[int, ...], ...]:
        """The shape of each input.

        Raises:
            InputError, Refused: As `make`.
        """
        sizes = self.fit.sizes(free_names(self.signature.inputs), shape, batch)
        return shapes_of(self.signature.inputs, free_dims=sizes, batch=batch, free_dim=shape.length)

    def _lone(self, spec: TensorSpec, shape: Shape) -> float | None:
        """The number that the `fit` gives to an input of one number, or one for each sample; None where it is drawn."""
        is_one = spec.shape is not None and all(dim == 1 for dim in spec.shape)
        if not is_few(spec) or (holds_floats(spec) and not is_one):
            return None
        asked = self._use(spec).constants
        if asked and self.fit.turn is not None:
            return asked[self.fit.turn % len(asked)]
        if holds_floats(spec):
            return None
        return {Integers.LENGTHS: float(shape.length), Integers.ONES: 1.0}.get(self.fit.integers)

    def _words(self, spec: TensorSpec) -> Words:
        return NUMERALS if self.fit.integers is Integers.PLAIN else self._use(spec).words

    def words(self) -> dict[str, Words]:
        """The strings that each input of strings is drawn from, by name."""
        return {spec.name: self._words(spec) for spec in self.signature.inputs if spec.dtype == "string"}

    def _use(self, spec: TensorSpec) -> InputUse:
        return self.uses.get(spec.name, InputUse())

    def _draw(
        self, rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], kind: Values, number: int
    ) -> np.ndarray:
        dtype = numpy_dtype(spec)
        use = self._use(spec)
        if spec.dtype == "string":
            drawn = draw_strings(rng, shape, self._words(spec), kind)
        elif not holds_floats(spec):
            drawn = (
                draw_booleans(rng, shape, kind)
                if dtype.kind == "b"
                else self._integers(rng, dtype, shape, use, kind, number)
            )
        elif use.is_bounded and self.fit.integers is not Integers.PLAIN:
            drawn = draw_integers(rng, shape, use.integers(), use.constants, kind, number)
        else:
            drawn = draw_floats(rng, shape, use, kind)
        return np.array(drawn, dtype=dtype, order="C")

    def _integers(
        self,
        rng: np.random.Generator,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        use: InputUse,
        kind: Values,
        number: int,
    ) -> np.ndarray:
        if self.fit.integers is Integers.PLAIN:
            return np.asarray(rng.integers(0, 2, shape))
        if self.fit.integers is Integers.ONES:
            return np.ones(shape)
        low, high = use.integers()
        info = np.iinfo(dtype) if dtype.kind in "iu" else None
        if info is not None and info.bits == _EIGHT_BITS and not use.is_bounded and not use.is_flag:
            low, high = int(info.min), int(info.max)
        if info is not None:
            low, high = max(low, int(info.min)), min(high, int(info.max))
        return draw_integers(rng, shape, (low, max(low, high)), use.constants, kind, number)


def _different(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """The axis that holds the batch: the one whose size follows it."""
    return next((axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)
