"""Counts values by bin: in C where installation found a compiler, else in numpy. The counts are the same.

numpy's bincount keeps other threads from running, and reads the numbers three times. C takes a third of the time, and
counts while the model runs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

_LANES = 4  # separate counters: neighbouring values are often equal, and one counter would have to be raised in turn
_MOST_BINS = 2048
_PARTS = {"C": 1 << 17, "numpy": 1 << 15}  # values at once: intermediate results fit in the cache


def add(values: np.ndarray, per_unit: float, start: int, counts: np.ndarray) -> None:
    """Add 1 to ``counts[k - start]`` for each value, k = value · per_unit cut off towards zero.

    Args:
        values: float32 of shape (n,), contiguous, each within the bins; n below 2^32.
        per_unit: A power of two, so that multiplying is exact, or underflows, where k is 0.
        start: The first bin's number.
        counts: int64 of shape (bins,), changed in place.
    """
    if counts.size == 1:
        counts[0] += values.size
    elif _compiled() is None or counts.size > _MOST_BINS:
        add_in_numpy(values, per_unit, start, counts)
    else:
        add_in_c(values, per_unit, start, counts)


def kind() -> str:
    """What counts here: ``C`` or ``numpy``."""
    return "numpy" if _compiled() is None else "C"


def part() -> int:
    """How many values are best given at once."""
    return _PARTS[kind()]


def add_in_c(values: np.ndarray, per_unit: float, start: int, counts: np.ndarray) -> None:
    """`add` for up to 2,048 bins, where `kind` is ``C``."""
    function = _compiled()
    if function is None or function(values.ctypes.data, values.size, per_unit, start, counts.size, counts.ctypes.data):
        raise ValueError("nothing in C counts here, or there are too many bins")


def add_in_numpy(values: np.ndarray, per_unit: float, start: int, counts: np.ndarray) -> None:
    """`add` for any number of bins."""
    size = counts.size
    for begin in range(0, values.size, _PARTS["numpy"]):
        places = (values[begin : begin + _PARTS["numpy"]] * np.float32(per_unit)).astype(np.int32)
        places += _offsets(size, start)[: places.size]
        counted = np.bincount(places, minlength=_LANES * size)
        counts += counted.reshape(_LANES, size).sum(axis=0)


@functools.cache
def _compiled() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(str(Path(__file__).with_name("libbincount.so"))).modelopt_count_1
    except (OSError, AttributeError):  # not compiled, or for another machine or version
        return None
    pointer = ctypes.c_void_p
    function.argtypes = (pointer, ctypes.c_int64, ctypes.c_float, ctypes.c_int32, ctypes.c_int32, pointer)
    function.restype = ctypes.c_int
    counter: Callable[..., int] = function
    return counter


@functools.lru_cache(maxsize=16)  # the parts of one tensor follow each other
def _offsets(size: int, start: int) -> np.ndarray:
    """What takes bin numbers to places in one of the lanes, for a part."""
    lanes = np.tile(np.arange(_LANES, dtype=np.int32), _PARTS["numpy"] // _LANES)
    return np.asarray(lanes * np.int32(size) - np.int32(start))
