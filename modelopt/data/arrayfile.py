"""Reading ``.npy`` and ``.npz`` that may be hostile: headers first, then only the bytes they promise.

A header may declare 4 GB in a file of 100 bytes, a zip member may unpack 10 KB to 10 GB, and an object array is a
pickle. Nothing is allocated before the sizes agree, and pickle is never allowed.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from modelopt.core.errors import InputError
from modelopt.data import user_files

_BROKEN = (
    *(ValueError, TypeError, SyntaxError, LookupError, OverflowError, AttributeError),
    *(OSError, EOFError, MemoryError, RuntimeError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What numpy, zipfile and the parser of literals behind them raise on malformed bytes."""

_MAX_HEADER_BYTES = 10_000
"""The longest header of an array that is read: numpy's own limit, asked before the header is in memory."""

_MAX_CONTENTS_BYTES = 1 << 20
"""The longest table of contents of a ``.npz`` that is read."""

_MAX_MEMBERS = 4096
"""The most arrays of a ``.npz``: models have some hundred inputs at most."""

_ALWAYS_UNPACKED_BYTES = 64 << 20
_MAX_EXPANSION = 64
"""What a compressed ``.npz`` may unpack to, as a multiple of the file's size, where that is more than 64 MiB: token ids
with padding and masks take 1/50, a bomb of zeros 1/1000."""

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Header:
    """What a stored array says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what numpy raises on malformed bytes into one error, and silence its warnings about unusual headers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _BROKEN as error:
        raise InputError(f"{path} is damaged or not a numpy file", note=f"{type(error).__name__}: {error}") from None


def _read_header(stream: IO[bytes], size_bytes: int, where: str) -> Header:
    """Parse one ``.npy`` header and hold it against the bytes that are there."""
    version = np.lib.format.read_magic(stream)
    if version in {(1, 0), (2, 0)}:
        _check_header_length(stream, 2 if version == (1, 0) else 4, where)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise InputError(f"{where}: unsupported .npy version {version[0]}.{version[1]}")
    header = Header(shape, dtype)
    if dtype.hasobject:
        raise InputError(
            f"{where} is an object array",
            note="object arrays need pickle, which can run code: modelopt never reads them",
            hint='save numbers as array.astype("float32") or alike, and strings as array.astype("U")',
        )
    if dtype.itemsize == 0 or any(size < 0 for size in shape):
        raise InputError(f"{where}: impossible header", note=f"shape {shape}, dtype {dtype.str}")
    payload_bytes = size_bytes - stream.tell()
    if header.nbytes != payload_bytes:
        raise InputError(
            f"{where} is cut short or damaged",
            note=f"its header declares {header.nbytes} bytes of values, {payload_bytes} are there",
        )
    return header


def _check_header_length(stream: IO[bytes], n_bytes: int, where: str) -> None:
    """Refuse a header that is longer than any array's: it would be read into memory as a whole."""
    at = stream.tell()
    length = int.from_bytes(stream.read(n_bytes), "little")
    stream.seek(at)
    if length > _MAX_HEADER_BYTES:
        raise InputError(f"{where}: impossible header", note=f"it has {length} bytes, the limit is {_MAX_HEADER_BYTES}")


class _BoundedFile(io.FileIO):
    """A file of which no more than `_MAX_CONTENTS_BYTES` are read at once while `is_bounded`.

    `zipfile` reads the table of contents as a whole, whatever its size.
    """

    is_bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if self.is_bounded and wanted > _MAX_CONTENTS_BYTES:
            note = f"{wanted} bytes, the limit is {_MAX_CONTENTS_BYTES}"
            raise InputError(f"the table of contents of {os.fsdecode(self.name)} is too long", note=note)
        return super().read(size) or b""


class NpyFile:
    """A ``.npy`` file: one array, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def header(self) -> Header:
        """The array's shape and dtype, without reading its values.

        Raises:
            InputError: Not a regular file, malformed, an object array, or not as long as it declares.
        """
        size_bytes = user_files.regular_size(self.path)
        with _refusing(self.path), self.path.open("rb") as stream:
            return _read_header(stream, size_bytes, str(self.path))

    def load(self) -> np.ndarray:
        """The array, read-only; its values are read from disk as they are used.

        Raises:
            InputError: As `header`.
        """
        header = self.header()
        if header.nbytes == 0:  # there is nothing to map
            return np.zeros(header.shape, header.dtype)
        with _refusing(self.path):
            mapped: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped


class NpzFile:
    """A ``.npz`` file: named arrays in a zip, each read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def headers(self) -> dict[str, Header]:
        """Shape and dtype of every array, by name, without reading the values.

        Raises:
            InputError: Not a regular file, malformed, an object array, not as long as declared, or its arrays together
                take more than `MAX_ARRAY_BYTES`.
        """
        with self._open() as archive:
            return {name: self._member_header(archive, info) for name, info in self._members(archive).items()}

    def load(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """These arrays, in memory.

        Raises:
            InputError: As `headers`, or the bytes do not match their checksum.
        """
        with self._open() as archive:
            members = self._members(archive)
            return {name: self._member_array(archive, members[name]) for name in names}

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        user_files.regular_size(self.path)
        with _refusing(self.path), _BoundedFile(self.path) as file, zipfile.ZipFile(file) as archive:
            file.is_bounded = False
            yield archive

    def _members(self, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
        infos = archive.infolist()
        if len(infos) > _MAX_MEMBERS:
            raise InputError(f"{self.path} holds {len(infos)} arrays", note=f"the limit is {_MAX_MEMBERS}")
        total_bytes = sum(info.file_size for info in infos)
        file_bytes = os.fstat(archive.fp.fileno()).st_size if archive.fp is not None else 0
        usual_bytes = max(_ALWAYS_UNPACKED_BYTES, _MAX_EXPANSION * file_bytes)
        if total_bytes > min(user_files.MAX_ARRAY_BYTES, usual_bytes):
            hint = "split it into several .npz files in one folder, or save one .npy, which is memory-mapped"
            if total_bytes > usual_bytes:
                hint = "np.savez, which does not compress; data that compress so well are mostly repetitions"
            raise InputError(
                f"{self.path} unpacks to more than memory should hold",
                note=f"{total_bytes} bytes unpacked, the limit is {min(user_files.MAX_ARRAY_BYTES, usual_bytes)}",
                hint=hint,
            )
        arrays = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
        if len({info.filename for info in infos}) < len(infos):
            raise InputError(f"{self.path} holds two members of the same name")
        if not all(info.compress_type in _COMPRESSIONS for info in infos):
            raise InputError(f"{self.path} is compressed in a way that numpy does not write")
        return arrays

    def _member_header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
        with archive.open(info) as stream:
            return _read_header(stream, info.file_size, f"{self.path}: '{info.filename}'")

    def _member_array(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
        self._member_header(archive, info)
        with archive.open(info) as stream:
            array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        return array
