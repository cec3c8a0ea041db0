"""Files that are mapped into memory: weights take memory of this process only while they are read."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from modelopt.core import bus_errors

RELEASE_BYTES = 64 * 2**20
"""How much may be read between two calls of `release`."""

_maps: weakref.WeakKeyDictionary[mmap.mmap, Path] = weakref.WeakKeyDictionary()


def open_map(path: Path) -> memoryview:
    """The bytes of a file that is not empty, read as they are needed."""
    bus_errors.arm()
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _maps[mapped] = path
    return memoryview(mapped)


def cut_short() -> Path | None:
    """A mapped file that is shorter now than when it was mapped; None where there is none."""
    for mapped, path in list(_maps.items()):
        with suppress(ValueError, OSError):  # closed or removed meanwhile
            if path.stat().st_size < len(mapped):
                return path
    return None


def release() -> None:
    """Take the pages of all mapped files out of this process's memory; the next read brings them back from the cache.

    Code that reads a lot calls it every `RELEASE_BYTES`: otherwise copying a 10 GB model takes 10 GB of memory.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for mapped in list(_maps):
        with suppress(ValueError):  # closed meanwhile
            mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def random_access(arrays: Iterable[np.ndarray]) -> Iterator[None]:
    """Turn the kernel's reading ahead off for a while, for the files that `arrays` are views of.

    Otherwise the kernel reads megabytes around each page that is read.
    """
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
