"""How the inputs of a model depend on each other: sizes that must be equal, and numbers that describe other inputs.

Free dimensions are rarely independent. A state has the batch on its second axis, a mask is as long as past and new
tokens together, a sampling rate decides how long a window must be. Each way to relate them is one `Fit`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import onnx_ir as ir

from modelopt import graph
from modelopt.core.signature import FIRST, LATER, Dim, Signature, TensorSpec, is_free, name_in, symbol_of, symbols_of
from modelopt.data.dtypes import holds_floats
from modelopt.data.synthetic import lengths_to_try, long_lengths
from modelopt.verification.feeds import Shape
from modelopt.verification.input_sizes import lengths_in, sizes_of
from modelopt.verification.input_uses import InputUse, uses_of

MAX_TIES = 8
"""How many ways to relate free dimensions are tried."""

MAX_ATTEMPTS = 1000
"""How many ways to feed a model are tried; one that fails takes a millisecond or two."""

LIKELY_ATTEMPTS = 24
"""How many are tried whatever the time, before the sizes of the user's data, which may be large."""

MAX_VALUES = 2**25
"""Constructed and random feeds have at most so many values, or `VALUES_PER_WEIGHT_BYTE` for each byte of weights."""

VALUES_PER_WEIGHT_BYTE = 8
"""See `MAX_VALUES`: a large model may be made for large inputs, a small one that declares them may be hostile."""

MAX_TURNS = 6
"""How many of the numbers that the graph compares a single number with are tried."""

_TERM = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_][\w.]*)(?:\s*\*\s*(\d+))?")


class Integers(Enum):
    """How integers are drawn."""

    DRAWN = "as the graph permits"
    PLAIN = "0 and 1"
    LENGTHS = "where they are few: the length of the other inputs"
    ONES = "1"


@dataclass(frozen=True)
class Needs:
    """What a graph requires of its inputs.

    Attributes:
        uses: How it uses each of them: see `input_uses`.
        sizes: Sizes that its weights fix, by input and axis: see `input_sizes`.
        lengths: Lengths that it mentions.
        most_values: A feed with more values is not made.
    """

    uses: Mapping[str, InputUse] = field(default_factory=dict)
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    most_values: int = MAX_VALUES

    def bounds(self, spec: TensorSpec) -> bool:
        """Whether the graph permits only some integers in an input, or compares a single number with constants."""
        use = self.uses.get(spec.name, InputUse())
        return use.is_bounded or (is_few(spec) and bool(use.constants))

    @staticmethod
    def of(model: ir.Model) -> Needs:
        """The needs of this graph."""
        most = max(MAX_VALUES, VALUES_PER_WEIGHT_BYTE * graph.weight_bytes(model))
        return Needs(uses_of(model), sizes_of(model), lengths_in(model), most)

    def why_too_large(self, values: int) -> str | None:
        """Why a feed of so many values is not made; None where it is."""
        if values <= self.most_values:
            return None
        return f"they would have {values:,} values, and at most {self.most_values:,} are made for a model of its size"


@dataclass(frozen=True)
class Fit:
    """How the inputs of all feeds depend on each other.

    Attributes:
        of_batch: Free dimensions, not on a first axis, that have the batch's size.
        fixed: Sizes of free dimensions that cannot have another.
        sums: Free dimensions that are the sum of others and of a number.
        integers: How integers are drawn.
        turn: Which of the numbers that the graph compares a single number with is used; None uses all of them in turn.
    """

    of_batch: frozenset[str] = frozenset()
    fixed: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    integers: Integers = Integers.DRAWN
    turn: int | None = None

    def is_tied(self, name: str) -> bool:
        """Whether the size of a free dimension follows from something else."""
        return name in self.of_batch or name in self.fixed or name in self.sums

    def sizes(self, names: Sequence[str], shape: Shape, batch: int) -> dict[str, int]:
        """The sizes of free dimensions that are not on a first axis."""
        found = {name: shape.lengths.get(name, shape.length) for name in names}
        found |= {name: batch for name in names if name in self.of_batch}
        found |= self.fixed
        for name, (parts, more) in self.sums.items():
            if name not in self.fixed:
                found[name] = sum(found.get(part, shape.length) for part in parts) + more
        return found


@dataclass(frozen=True)
class FeedAttempt:
    """One way to feed a model.

    Attributes:
        length: The size of free dimensions that are not the batch.
        fit: How the inputs depend on each other.
    """

    length: int
    fit: Fit


def attempts(
    signature: Signature, needs: Needs, sizes: Mapping[str, int] | None = None, *, first: Sequence[int] = ()
) -> Iterator[FeedAttempt]:
    """Ways to feed a model, the likeliest first; a model that runs is found by trying them in turn.

    Args:
        signature: The model's, with names: see `with_names`.
        needs: What its graph asks for.
        sizes: Sizes of free dimensions that the user named.
        first: Lengths to try before the others.
    """
    ways = list(fits(signature, needs, sizes or {}))
    inputs = signature.inputs
    has_free = any(is_free(dim) for spec in inputs for dim in (spec.shape or ())[1:])
    usual = (*first, *lengths_to_try(inputs)) if has_free else (1,)
    more = (*needs.lengths, *long_lengths(inputs)) if has_free else ()
    common = [i for i, way in enumerate(ways) if way in (ways[0], replace(ways[0], integers=Integers.PLAIN))]
    likely = [(way, length) for length in usual for way in common]
    others = [(way, length) for way in range(len(ways)) for length in (*usual, *more)]
    seen: set[tuple[int, int]] = set()
    for way, length in [*likely, *others]:
        if (way, length) not in seen and len(seen) < MAX_ATTEMPTS:
            seen.add((way, length))
            yield FeedAttempt(length, ways[way])


def with_names(signature: Signature) -> Signature:
    """The signature with a unique name for each free dimension without one, except on first axes."""
    inputs = tuple(
        spec
        if spec.shape is None
        else replace(spec, shape=tuple(_named(spec, i, dim) for i, dim in enumerate(spec.shape)))
        for spec in signature.inputs
    )
    return replace(signature, inputs=inputs)


def _named(spec: TensorSpec, axis: int, dim: Dim) -> Dim:
    if not is_free(dim) or symbol_of(dim) is not None:
        return dim
    return name_in(spec.name, axis, dim) if axis else None


def free_names(inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Names of free dimensions that are on no first axis."""
    batch = symbols_of(inputs, FIRST)
    return tuple(name for name in symbols_of(inputs, LATER) if name not in batch)


def is_few(spec: TensorSpec) -> bool:
    """Whether an input is one number, or one for each sample."""
    return spec.shape is not None and (len(spec.shape) < 2 or all(dim == 1 for dim in spec.shape[1:]))


def fits(signature: Signature, needs: Needs, sizes: Mapping[str, int]) -> Iterator[Fit]:
    """Ways to feed a model, the likeliest first: those that differ from the usual way in fewest choices.

    Args:
        signature: The model's, with names: see `with_names`.
        needs: What its graph asks for.
        sizes: Sizes of free dimensions that the user named.
    """
    turns = [None, *range(min(MAX_TURNS, _most_constants(signature, needs)))]
    ties, kinds = _ties(signature, needs, sizes), _integers(signature, needs)
    choices = itertools.product(range(len(ties)), range(len(kinds)), range(len(turns)))
    for tie, kind, turn in sorted(choices, key=lambda each: (sum(each), sum(map(bool, each)))):
        yield replace(ties[tie], integers=kinds[kind], turn=turns[turn])


def _most_constants(signature: Signature, needs: Needs) -> int:
    few = [needs.uses.get(spec.name, InputUse()) for spec in signature.inputs if is_few(spec)]
    return max((len(use.constants) for use in few), default=0)


def _integers(signature: Signature, needs: Needs) -> list[Integers]:
    whole = [spec for spec in signature.inputs if not holds_floats(spec)]
    if not whole and not any(use.is_bounded for use in needs.uses.values()):
        return [Integers.DRAWN]
    few = [Integers.LENGTHS] if any(map(is_few, whole)) else []
    return [Integers.DRAWN, Integers.PLAIN, *few, Integers.ONES]


def _ties(signature: Signature, needs: Needs, sizes: Mapping[str, int]) -> list[Fit]:
    """Ways to relate free dimensions; the first uses only what weights and names determine."""
    inputs = signature.inputs
    names = free_names(inputs)
    named = {(spec.name, axis): dim for spec in inputs for axis, dim in enumerate(spec.shape or ())}
    fixed = {
        dim: size for place, size in needs.sizes.items() if isinstance(dim := named.get(place), str) and dim in names
    }
    usual = Fit(fixed={**fixed, **sizes}, sums={name: terms for name in names if (terms := _sum(name)) is not None})
    free = [name for name in names if not usual.is_tied(name)]
    found = [replace(usual, of_batch=frozenset(each)) for each in _batches(inputs, free)]
    for total in free:
        parts = [name for name in free if name != total]
        pairs = itertools.combinations(parts, 2)
        found += [replace(usual, sums={**usual.sums, total: (pair, 0)}) for pair in pairs]
        found += [replace(usual, sums={**usual.sums, total: ((part,), 1)}) for part in parts]
    if fixed:
        found.append(replace(usual, fixed=dict(sizes)))
    return [usual, *found[:MAX_TIES]]


def _batches(inputs: Sequence[TensorSpec], free: Sequence[str]) -> Iterator[set[str]]:
    """Sets of dimensions that may be the batch, for inputs whose first axis is fixed: the larger sets come first."""
    known = set(free)
    later = [
        [dim for dim in spec.shape[1:] if isinstance(dim, str) and dim in known]
        for spec in inputs
        if spec.shape and not is_free(spec.shape[0])
    ]
    firsts = [dims[0] for dims in later if dims]
    second = {str(spec.shape[1]) for spec in inputs if spec.shape and len(spec.shape) > 2} & known
    candidates = [set(firsts), {dim for dims in later for dim in dims}, *({name} for name in firsts), second]
    seen: list[set[str]] = []
    for each in candidates:
        if each and each not in seen:
            seen.append(each)
            yield each


def _sum(name: str) -> tuple[tuple[str, ...], int] | None:
    """``past + 1`` or ``past + 2*new`` as the names that are added, and a number; None for a plain name."""
    parts, number = [], 0
    terms = [term.strip() for term in name.split("+")]
    for term in terms:
        match = _TERM.fullmatch(term)
        if term.isdecimal():
            number += int(term)
        elif match is not None:
            parts += [match[2]] * (int(match[1] or 1) * int(match[3] or 1))
        else:
            return None
    return (tuple(parts), number) if parts and parts != [name] and len(parts) < 100 else None
