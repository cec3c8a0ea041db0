"""The checks of every feed, from files of any kind: names, shapes, finite values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.core.signature import Dim, TensorSpec
from modelopt.data.dtypes import check_dtype, check_text, holds_floats, numpy_dtype, owned

_LISTED = 20
"""How many names an error lists."""


def check_inputs(inputs: Sequence[TensorSpec]) -> None:
    """Refuse a model that no data can feed.

    Raises:
        InputError: The model has no inputs.
        Refused: An input is a sequence, a map, or of a type without numpy counterpart.
    """
    if not inputs:
        raise InputError("the model has no inputs: there is nothing to feed", hint="leave the data out")
    for spec in inputs:
        numpy_dtype(spec)


def check_names(inputs: Sequence[TensorSpec], found: Iterable[str], where: str) -> None:
    """Every input must be there; what else is there is the caller's to ignore or refuse.

    Raises:
        InputError: An input is missing; the hint names the array that was probably meant.
    """
    names = list(found)
    known = {spec.name for spec in inputs}
    missing = [spec.name for spec in inputs if spec.name not in names]
    if not missing:
        return
    spare = [name for name in names if name not in known]
    raise InputError(
        f"{where}: nothing for the model's input '{missing[0]}'",
        note=f"it holds {_listed(names) or 'nothing'}; the model's inputs are {'; '.join(map(str, inputs))}",
        hint=_rename_hint(missing, spare),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _rename_hint(missing: Sequence[str], spare: Sequence[str]) -> str:
    guess = did_you_mean(missing[0], spare)
    if guess is not None:
        return f"{guess} rename it to '{missing[0]}'"
    if len(missing) == len(spare) == 1:
        return f"rename '{spare[0]}' to '{missing[0]}'"
    return f"add an array named '{missing[0]}'"


def fixed_size(dim: Dim) -> int | None:
    """The size that the model fixes, or None where it is free: exporters also write -1 for free."""
    return dim if isinstance(dim, int) and dim >= 0 else None


def check_shape(spec: TensorSpec, shape: Sequence[int], where: str) -> None:
    """The shape of one feed against the input's.

    Raises:
        InputError: Another rank, or another size where the model fixes it.
    """
    if spec.shape is None:
        return
    found = "x".join(map(str, shape)) or "a scalar"
    if len(shape) != len(spec.shape):
        raise InputError(
            f"{where}: '{spec.name}' has {len(shape)} axes, the model wants {len(spec.shape)}",
            note=f"found {found}; the model's input is {spec}",
            hint=_rank_hint(len(shape), len(spec.shape)),
        )
    for axis, (size, dim) in enumerate(zip(shape, spec.shape, strict=True)):
        if fixed_size(dim) not in (None, size):
            raise InputError(
                f"{where}: '{spec.name}' has size {size} on axis {axis}, the model wants {dim}",
                note=f"found {found}; the model's input is {spec}",
                hint=None if dim else "0 means what it says: export the model with free dimensions in place of 0",
            )


def _rank_hint(found: int, wanted: int) -> str | None:
    if found == wanted - 1:
        return "if the batch axis is missing, save array[None]"
    return None


def check_finite(spec: TensorSpec, array: np.ndarray, where: str) -> None:
    """Refuse NaN and Inf: calibration cannot derive a range from values that hold one.

    Raises:
        InputError: A value is NaN or Inf.
    """
    if not holds_floats(spec):
        return
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        raise InputError(
            f"{where}: '{spec.name}' holds NaN or Inf",
            note=f"{bad} of {array.size} values are not finite",
            hint="remove this sample, or fix what produced it",
        )


def checked_feeds(
    inputs: Sequence[TensorSpec], arrays: Mapping[str, Any], where: str, *, allow_nonfinite: bool
) -> dict[str, np.ndarray]:
    """One sample's feeds, each checked against its input, in the model's order.

    Raises:
        InputError: A name, dtype, shape or value that the model cannot be fed.
        Refused: Strings that are not numpy unicode arrays.
    """
    check_names(inputs, arrays, where)
    feeds: dict[str, np.ndarray] = {}
    for spec in inputs:
        array = np.asarray(arrays[spec.name])
        check_dtype(spec, array.dtype, where)
        check_text(spec, array, where)
        check_shape(spec, array.shape, where)
        feeds[spec.name] = owned(array, spec)
        if not allow_nonfinite:
            check_finite(spec, feeds[spec.name], where)
    return feeds
