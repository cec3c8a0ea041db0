"""Messages between the parent and its worker: a msgpack header, then the arrays' raw bytes. No pickle."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

_LENGTH = struct.Struct("<Q")
_STRING = "string"

Message = tuple[dict[str, Any], dict[str, np.ndarray]]
"""What both sides send: a body of plain values, and arrays by name."""


class Failure(Exception):
    """What the child answers when native code fails.

    Args:
        kind: What failed, as `installation.explain` knows it.
        text: The evidence.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


class _Array(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


class _Header(msgspec.Struct):
    body: dict[str, Any]
    arrays: dict[str, _Array]


def write(stream: io.BufferedIOBase, body: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Send one message."""
    payloads: list[memoryview | bytes] = []
    described: dict[str, _Array] = {}
    for name, array in (arrays or {}).items():
        payload = _payload(array)
        dtype = _STRING if array.dtype.kind in "OU" else _name_of(array.dtype)
        described[name] = _Array(dtype, array.shape, len(payload))
        payloads.append(payload)
    header = msgspec.msgpack.encode(_Header(body, described))
    stream.write(_LENGTH.pack(len(header)))
    stream.write(header)
    for payload in payloads:
        stream.write(payload)
    stream.flush()


def read(stream: io.BufferedIOBase) -> Message:
    """Receive one message.

    Raises:
        EOFError: The other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    header = msgspec.msgpack.decode(_exactly(stream, length), type=_Header)
    arrays = {name: _array(spec, _exactly(stream, spec.n_bytes)) for name, spec in header.arrays.items()}
    return header.body, arrays


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    return dtype.name  # numpy works it out anew at each call: much of the time of a message of many arrays


def _payload(array: np.ndarray) -> memoryview | bytes:
    if array.dtype.kind in "OU":
        return msgspec.msgpack.encode([str(item) for item in array.ravel()])
    dense = np.array(array, order="C", copy=None)
    return dense.reshape(-1).view(np.uint8).data if dense.size else b""


def _array(spec: _Array, payload: bytearray) -> np.ndarray:
    if spec.dtype == _STRING:
        strings = np.empty(len(items := msgspec.msgpack.decode(payload)), dtype=object)
        strings[:] = items
        return strings.reshape(spec.shape)
    return np.frombuffer(payload, dtype=numpy_dtype(spec.dtype)).reshape(spec.shape)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype called `name`, looking into ml_dtypes for those that numpy lacks (bfloat16, float8 …)."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found


def _exactly(stream: io.BufferedIOBase, count: int) -> bytearray:
    buffer = bytearray(count)
    view = memoryview(buffer)
    done = 0
    while done < count:
        got = stream.readinto(view[done:])
        if not got:
            raise EOFError("the other side closed the pipe")
        done += got
    return buffer
