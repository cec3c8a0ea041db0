"""What goes in and what comes out of a model, as plain data that every room may import."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from modelopt.core.errors import InputError, did_you_mean

Dim = int | str | None
"""A dimension: a fixed size, a symbolic name, or None where the model says nothing."""

_ANONYMOUS = frozenset({"", "?", "*", "-1", "None"})
"""What exporters write where they know neither a size nor a name: two dimensions that are called so may differ."""


def symbol_of(dim: Dim) -> str | None:
    """The name of a dimension, as all dimensions of that size have it; None for a size and for `_ANONYMOUS`."""
    return dim if isinstance(dim, str) and dim not in _ANONYMOUS else None


def known_equal(one: Dim, other: Dim) -> bool:
    """Whether two dimensions of one graph are known to be equal: they are one size, or have one name."""
    if is_free(one) or is_free(other):
        return symbol_of(one) is not None and one == other
    return one == other


def is_free(dim: Dim) -> bool:
    """Whether a dimension may have any size; some exporters write -1 for one that may."""
    return not isinstance(dim, int) or dim < 0


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output.

    Attributes:
        name: The value's name, as the model writes it (it may hold ``:``, ``/`` or spaces).
        dtype: A numpy dtype name (``"float32"``), an ml_dtypes name (``"bfloat16"``), ``"string"``, or the type's
            text for what is not a tensor (``"seq(tensor(float))"``).
        shape: One entry per axis, or None when the rank is unknown. ``()`` is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    @property
    def rank(self) -> int | None:
        """The number of axes, None when the model does not say."""
        return None if self.shape is None else len(self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype}[unknown rank]"
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


def name_in(value: str, axis: int, dim: Dim) -> str | None:
    """How a user names an axis of an input: by its dimension's name, else as ``INPUT:AXIS``; None where it is fixed."""
    return (symbol_of(dim) or f"{value}:{axis}") if is_free(dim) else None


FIRST, LATER = slice(1), slice(1, None)
"""Axes of an input: the first, which is the batch in most models, and the others."""


def symbols_of(specs: Iterable[TensorSpec], axes: slice = slice(None)) -> tuple[str, ...]:
    """The names of dimensions, each once, in the order of the inputs and of these axes."""
    dims = (dim for spec in specs for dim in (spec.shape or ())[axes])
    return tuple(dict.fromkeys(symbol for dim in dims if (symbol := symbol_of(dim)) is not None))


def no_dimension(name: str, known: Collection[str], otherwise: str) -> InputError:
    """The error for a name that is not one of `known`.

    Args:
        name: What the user calls a dimension.
        known: The names that there are.
        otherwise: The hint where no dimension can have that name.
    """
    note = f"open dimensions: {', '.join(known)}" if known else "no input has an open dimension with a name"
    hint = otherwise if symbol_of(name) is None else did_you_mean(name, known)
    return InputError(f"no input has a dimension '{name}'", note=note, hint=hint)


@dataclass(frozen=True)
class Signature:
    """The inputs (without initializers) and outputs of a model, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
