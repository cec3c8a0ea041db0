"""Takes large tensors out of a serialized model and puts them back, on the wire format of protobuf.

A model file is mostly weights, and parsing it as one protobuf message would copy them all. `detach` walks the wire
format of a mapped file, leaves each large ``raw_data`` in place, and returns a small skeleton in which that tensor
points to a numbered blob. `attach` goes the other way and yields the file in chunks.

Only messages large enough to hold a large tensor are walked, so the cost does not depend on the number of small nodes.
Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: onnx.proto3.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelopt.core.errors import InputError, Refused

Buffer = bytes | memoryview

MARKER = "modelopt:blob:"
"""The ``location`` of a detached tensor, followed by the blob's number."""

_Schema = dict[int, str]
_CHILDREN: dict[str, _Schema] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_MARKER = MARKER.encode()
_ENTRY = re.compile(rb"\x0a\x08location\x12." + _MARKER + rb"([0-9]{1,18})\0", re.DOTALL)
_MAX_DEPTH = 100  # protobuf's own limit


@dataclass(frozen=True)
class Blob:
    """Where a detached tensor's bytes are in the buffer that was walked."""

    offset: int
    length: int


@dataclass(frozen=True)
class _Field:
    number: int
    wire_type: int
    start: int  # of the key
    body: int  # of the payload
    end: int


def detach(buffer: Buffer, threshold: int, max_nodes: int = sys.maxsize) -> tuple[bytes, list[Blob]]:
    """Split a serialized model into a skeleton and its large tensors.

    Args:
        buffer: A serialized ModelProto.
        threshold: ``raw_data`` of at least so many bytes is left out of the skeleton.
        max_nodes: How many nodes and initializers the messages that are walked may hold.

    Returns:
        The skeleton, a valid ModelProto, and the blobs in the order of their numbers.

    Raises:
        InputError: The bytes are not a protobuf message.
        Refused: It holds more nodes and initializers.
    """
    detacher = _Detacher(memoryview(buffer), threshold, max_nodes)
    return b"".join(detacher.detach(0, len(buffer), "model", 0)), detacher.blobs


def outermost(buffer: Buffer, *, may_end: bool = False) -> Iterator[tuple[int, int]]:
    """The number and the wire type of each outermost field of a message.

    Args:
        buffer: The message.
        may_end: The last field may be longer than what is there.

    Raises:
        InputError: The bytes are not a protobuf message.
    """
    view = memoryview(buffer)
    return ((field.number, field.wire_type) for field in _fields(view, 0, len(view), may_end=may_end))


class _Detacher:
    def __init__(self, view: memoryview, threshold: int, max_nodes: int) -> None:
        self._view, self._threshold, self._max_nodes = view, threshold, max_nodes
        self.blobs: list[Blob] = []
        self._nodes = 0

    def detach(self, start: int, end: int, kind: str, depth: int) -> list[Buffer]:
        if depth > _MAX_DEPTH:
            raise InputError("not an ONNX model", note=f"messages are nested more than {_MAX_DEPTH} deep")
        parts: list[Buffer] = []
        children = _CHILDREN[kind]
        counts = kind in {"graph", "function"}
        copied = start
        for field in _fields(self._view, start, end):
            if counts and children.get(field.number) in {"node", "tensor"}:
                self._count_node()
            if kind == "tensor" and field.number == _DATA_LOCATION and parts:
                replacement: list[Buffer] = []  # "not external", written out: it would undo the marker's "external"
            elif field.wire_type != 2 or field.end - field.body < self._threshold:
                continue
            elif kind == "tensor" and field.number == _RAW_DATA:
                replacement = [_marker(len(self.blobs))]
                self.blobs.append(Blob(field.body, field.end - field.body))
            elif field.number in children:
                child = self.detach(field.body, field.end, children[field.number], depth + 1)
                replacement = [_key(field.number), _varint(sum(map(len, child))), *child]
            else:
                continue
            parts += [self._view[copied : field.start], *replacement]
            copied = field.end
        parts.append(self._view[copied:end])
        return parts

    def _count_node(self) -> None:
        self._nodes += 1
        if self._nodes > self._max_nodes:
            raise too_many_nodes(self._max_nodes)


def too_many_nodes(max_nodes: int) -> Refused:
    """The refusal of a model with more nodes and initializers."""
    return Refused(
        f"it has more than {max_nodes:,} nodes and initializers",
        note="each takes about 8 kB of memory, and up to 1 ms of each command",
        hint="--max-nodes N accepts N of them",
    )


def attach(skeleton: Buffer, size: Callable[[int], int], blob: Callable[[int], Buffer]) -> Iterator[Buffer]:
    """The inverse of `detach`: yield the serialized model in chunks.

    Args:
        skeleton: A serialized ModelProto whose detached tensors have `MARKER` locations.
        size: The length of a blob by its number.
        blob: Its bytes; called once per blob.
    """
    return _emit(_attach(memoryview(skeleton), 0, len(skeleton), "model", size), blob)


def _attach(view: memoryview, start: int, end: int, kind: str, size: Callable[[int], int]) -> _Piece:
    parts: list[Buffer | int | _Piece] = []
    total = 0
    copied = start
    children = _CHILDREN[kind]
    marked = kind == "tensor" and _marked(view, start, end)
    for field in _fields(view, start, end):
        added: list[Buffer | int | _Piece] = []
        number = _blob_number(view[field.body : field.end]) if marked and field.number == _EXTERNAL_DATA else None
        if number is not None:
            length = size(number)
            header = _key(_RAW_DATA) + _varint(length)
            added = [header, number]
            total += len(header) + length
        elif field.number in children and field.wire_type == 2 and _MARKER in bytes(view[field.body : field.end]):
            child = _attach(view, field.body, field.end, children[field.number], size)
            header = _key(field.number) + _varint(child.length)
            added = [header, child]
            total += len(header) + child.length
        elif not (marked and field.number == _DATA_LOCATION):
            continue
        parts += [view[copied : field.start], *added]
        total += field.start - copied
        copied = field.end
    parts.append(view[copied:end])
    return _Piece(total + end - copied, parts)


@dataclass(frozen=True)
class _Piece:
    length: int
    parts: list[Buffer | int | _Piece]


def _emit(piece: _Piece, blob: Callable[[int], Buffer]) -> Iterator[Buffer]:
    for part in piece.parts:
        if isinstance(part, _Piece):
            yield from _emit(part, blob)
        elif isinstance(part, int):
            yield blob(part)
        else:
            yield part


def _marked(view: memoryview, start: int, end: int) -> bool:
    """Whether a tensor is a detached one: names and doc strings may hold the marker's text too."""
    return any(
        field.number == _EXTERNAL_DATA and _blob_number(view[field.body : field.end]) is not None
        for field in _fields(view, start, end)
    )


def _blob_number(entry: memoryview) -> int | None:
    """The blob that an ``external_data`` entry written by `_marker` points to; None for any other entry."""
    found = _ENTRY.fullmatch(entry)
    return None if found is None else int(found[1])


def _marker(number: int) -> bytes:
    """External data entry {location: marker} and data_location = EXTERNAL, as TensorProto fields.

    The location ends in a zero byte, which no file's name can hold.
    """
    location = b"%b%d\0" % (_MARKER, number)
    entry = b"\x0a\x08location\x12" + _varint(len(location)) + location
    return _key(_EXTERNAL_DATA) + _varint(len(entry)) + entry + _varint(_DATA_LOCATION << 3) + b"\x01"


def _key(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@functools.cache
def _repeated(key: int) -> re.Pattern[bytes] | None:
    """What matches fields of this key in a row, for keys of one byte and numbers; None for others."""
    value = {0: rb"[\x80-\xff]{0,9}[\x00-\x7f]", 1: rb".{8}", 5: rb".{4}"}.get(key & 7)
    return (
        None if value is None or key > 0x7F else re.compile(b"(?:" + re.escape(bytes([key])) + value + b")+", re.DOTALL)
    )


def _fields(view: memoryview, start: int, end: int, *, may_end: bool = False) -> Iterator[_Field]:
    """The fields of a message; numbers of one key in a row, such as those of a list, come as one field."""
    position = start
    while position < end:
        key, body = _read_varint(view, position, end)
        wire_type = key & 7
        if wire_type == 0:
            _, stop = _read_varint(view, body, end)
        elif wire_type == 1:
            stop = body + 8
        elif wire_type == 5:
            stop = body + 4
        elif wire_type == 2:
            length, body = _read_varint(view, body, end)
            stop = body + length
        else:
            raise InputError("not an ONNX model", note=f"wire type {wire_type} at byte {position}")
        if wire_type != 2 and stop < end and view[stop] == key and (pattern := _repeated(key)) is not None:
            run = pattern.match(view, position, end)
            stop = run.end() if run is not None else stop
        if (stop > end and not may_end) or key >> 3 == 0:
            raise InputError("not an ONNX model, or a truncated one", note=f"the field at byte {position} has no end")
        yield _Field(key >> 3, wire_type, position, body, stop)
        position = stop


def _read_varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise InputError("not an ONNX model, or a truncated one", note=f"a number at byte {position} has no end")
