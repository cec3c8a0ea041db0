"""What goes in and what comes out of a model, as plain data that every room may import."""

from __future__ import annotations

from dataclasses import dataclass

Dim = int | str | None
"""A dimension: a fixed size, a symbolic name, or None where the model says nothing."""

_ANONYMOUS = frozenset({"", "?", "*", "-1", "None"})


def symbol_of(dim: Dim) -> str | None:
    """The name of a dimension; None for a size, and for what exporters write where they know neither.

    Dimensions of one name have one size. `*`, `?`, `-1`, `None` and the empty text name nothing: dimensions that are
    called so have nothing in common.
    """
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


@dataclass(frozen=True)
class Signature:
    """The inputs (without initializers) and outputs of a model, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
