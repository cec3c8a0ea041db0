"""From a TensorSpec's dtype name to numpy, and from a user's array to one that a model can be fed."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelopt.core.errors import InputError, Refused
from modelopt.core.signature import TensorSpec

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "float32", "float64", "complex64", "complex128")
_NUMPY_NAMES = {name: np.dtype(name) for name in ("bool", *_FLOATS, *_INTEGERS)}


def numpy_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The numpy (or ml_dtypes) dtype of an input; ``object`` for strings.

    Raises:
        Refused: The input is not a tensor, or its element type has no numpy counterpart.
    """
    if spec.dtype == "string":
        return np.dtype(object)
    if spec.dtype in _NUMPY_NAMES:
        return _NUMPY_NAMES[spec.dtype]

    import ml_dtypes

    scalar = getattr(ml_dtypes, spec.dtype, None) if spec.dtype.isidentifier() else None
    if not isinstance(scalar, type) or not issubclass(scalar, np.generic):
        raise Refused(
            f"input '{spec.name}' has the type {spec.dtype}, which no array can feed",
            note="only tensors of numbers, booleans and strings can be fed",
        )
    return np.dtype(scalar)


def holds_floats(spec: TensorSpec) -> bool:
    """Whether the input's values may be NaN or Inf."""
    return spec.dtype.startswith(("float", "bfloat", "complex"))


def check_dtype(spec: TensorSpec, dtype: np.dtype[Any], where: str) -> None:
    """Refuse an array that would have to be cast: a silent cast hides a mistake.

    Plain bytes of the right width are accepted for ml_dtypes types, because ``np.save`` writes bfloat16 as ``V2``.

    Raises:
        InputError: The dtype differs from the input's.
        Refused: Strings that are not numpy unicode arrays.
    """
    wanted = numpy_dtype(spec)
    if spec.dtype == "string":
        _check_text(spec, dtype, where)
        return
    if dtype.hasobject:
        raise InputError(
            f"{where}: '{spec.name}' is an object array",
            note="object arrays need pickle, which can run code: modelopt never reads them",
            hint=f'save it as an array of numbers: array.astype("{spec.dtype}")',
        )
    if dtype.name == wanted.name or _is_raw(dtype, wanted):
        return
    raise InputError(
        f"{where}: '{spec.name}' is {dtype.name}, the model wants {spec.dtype}",
        note=f"the model's input is {spec}",
        hint=f'save array.astype("{spec.dtype}"): modelopt does not cast data in silence',
    )


def _check_text(spec: TensorSpec, dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind in "UO":  # of objects each is looked at: see `check_text`
        return
    if dtype.kind == "S":
        raise Refused(
            f"{where}: '{spec.name}' holds strings as bytes, which is not supported",
            hint='save strings as a numpy unicode array: array.astype("U")',
        )
    raise InputError(
        f"{where}: '{spec.name}' is {dtype.name}, the model wants strings",
        note=f"the model's input is {spec}",
        hint="save strings as a numpy unicode array: np.array(list_of_str)",
    )


def check_text(spec: TensorSpec, array: np.ndarray, where: str) -> None:
    """Refuse objects that are no strings, where strings are wanted.

    Raises:
        InputError: There is one.
    """
    if spec.dtype != "string" or array.dtype.kind != "O":
        return
    other = next((item for item in array.reshape(-1).tolist() if not isinstance(item, str)), "")
    if not isinstance(other, str):
        raise InputError(
            f"{where}: '{spec.name}' holds a {type(other).__name__} among its strings",
            note=f"the model's input is {spec}",
            hint="give strings only, such as array.astype(str)",
        )


def _is_raw(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    is_plain_void = dtype.kind == "V" and dtype.names is None and dtype.subdtype is None
    return (
        is_plain_void
        and dtype.type is np.void
        and wanted.name not in _NUMPY_NAMES
        and dtype.itemsize == wanted.itemsize
    )


def owned(values: Any, spec: TensorSpec) -> np.ndarray:
    """A private C-contiguous copy in native byte order, of the input's dtype; 0-d stays 0-d.

    The dtype must have passed `check_dtype`: no value changes here.
    """
    array = np.asarray(values)
    if spec.dtype == "string":
        return np.array(array, dtype=object, order="C")
    copy = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return copy.view(numpy_dtype(spec)) if copy.dtype.kind == "V" else copy
