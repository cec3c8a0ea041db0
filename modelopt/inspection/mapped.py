"""Reading parts of memory-mapped arrays: without advice the kernel reads megabytes around each page that is touched."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def scattered(arrays: Iterable[np.ndarray]) -> Iterator[None]:
    """Turn reading ahead off for a while, for the files that `arrays` are views of."""
    maps = {id(found): found for array in arrays if (found := _mapping(array)) is not None}
    if not hasattr(mmap, "MADV_RANDOM"):
        yield
        return
    try:
        for found in maps.values():
            found.madvise(mmap.MADV_RANDOM)
        yield
    finally:
        for found in maps.values():
            found.madvise(mmap.MADV_NORMAL)


def prefetch(array: np.ndarray) -> None:
    """Start to read the pages of a contiguous `array`, if it is a view of a file, and go on without waiting."""
    found = _mapping(array)
    if found is None or not array.size or not hasattr(mmap, "MADV_WILLNEED"):
        return
    offset = array.ctypes.data - np.frombuffer(found, np.uint8).ctypes.data
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    found.madvise(mmap.MADV_WILLNEED, start, offset - start + array.nbytes)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file behind a view; None for an array with memory of its own."""
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    source = owner.obj if isinstance(owner, memoryview) else owner
    return source if isinstance(source, mmap.mmap) else None
