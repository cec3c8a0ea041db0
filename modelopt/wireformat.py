"""Protobuf surgery on serialized models: take large tensors out of the bytes, and put them back in.

A model file is mostly weights. Parsing it as one protobuf message copies them all; here they stay where they are.
`detach` walks the wire format of a mapped file, leaves each large ``raw_data`` in place, and returns a small skeleton
in which that tensor points to a numbered blob. `attach` goes the other way and yields the file in chunks.

Only messages large enough to hold a large tensor are walked, so the cost does not depend on the number of small nodes.
Wire format: https://protobuf.dev/programming-guides/encoding; field numbers: onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelopt.errors import InputError

Buffer = bytes | memoryview

MARKER = "modelopt:blob:"
"""The ``location`` of a detached tensor, followed by the blob's number."""

_Schema = dict[int, str]
_CHILDREN: dict[str, _Schema] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
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


def detach(buffer: Buffer, threshold: int) -> tuple[bytes, list[Blob]]:
    """Split a serialized model into a skeleton and its large tensors.

    Args:
        buffer: A serialized ModelProto.
        threshold: ``raw_data`` of at least so many bytes is left out of the skeleton.

    Returns:
        The skeleton, a valid ModelProto, and the blobs in the order of their numbers.

    Raises:
        InputError: The bytes are not a protobuf message.
    """
    blobs: list[Blob] = []
    return b"".join(_detach(memoryview(buffer), 0, len(buffer), "model", threshold, blobs, 0)), blobs


def _detach(
    view: memoryview, start: int, end: int, kind: str, threshold: int, blobs: list[Blob], depth: int
) -> list[Buffer]:
    if depth > _MAX_DEPTH:
        raise InputError("not an ONNX model", note=f"messages are nested more than {_MAX_DEPTH} deep")
    parts: list[Buffer] = []
    children = _CHILDREN[kind]
    copied = start
    for field in _fields(view, start, end):
        if field.wire_type != 2 or field.end - field.body < threshold:
            continue
        if kind == "tensor" and field.number == _RAW_DATA:
            replacement: list[Buffer] = [_marker(len(blobs))]
            blobs.append(Blob(field.body, field.end - field.body))
        elif field.number in children:
            child = _detach(view, field.body, field.end, children[field.number], threshold, blobs, depth + 1)
            replacement = [_key(field.number), _varint(sum(map(len, child))), *child]
        else:
            continue
        parts += [view[copied : field.start], *replacement]
        copied = field.end
    parts.append(view[copied:end])
    return parts


def attach(skeleton: Buffer, blob: Callable[[int], Buffer]) -> Iterator[Buffer]:
    """The inverse of `detach`: yield the serialized model in chunks.

    Args:
        skeleton: A serialized ModelProto whose detached tensors have `MARKER` locations.
        blob: The bytes of a blob by its number; called once per blob to size it and once to write it.
    """
    return _emit(_attach(memoryview(skeleton), 0, len(skeleton), "model", lambda i: len(blob(i))), blob)


def _attach(view: memoryview, start: int, end: int, kind: str, size: Callable[[int], int]) -> _Piece:
    parts: list[Buffer | int | _Piece] = []
    total = 0
    copied = start
    children = _CHILDREN[kind]
    marker = MARKER.encode()
    for field in _fields(view, start, end):
        if field.wire_type != 2 and not (kind == "tensor" and field.number == _DATA_LOCATION):
            continue
        if kind == "tensor" and field.number in {_EXTERNAL_DATA, _DATA_LOCATION}:
            payload = bytes(view[field.body : field.end])
            added: list[Buffer | int | _Piece] = []
            if marker in payload:
                number = int(payload.split(marker, 1)[1].split(b"\0", 1)[0])
                header = _key(_RAW_DATA) + _varint(size(number))
                added = [header, number]
                total += len(header) + size(number)
            elif not _points_to_blob(view, start, end, marker):
                continue  # really external: stays as it is
        elif field.number in children and marker in bytes(view[field.body : field.end]):
            child = _attach(view, field.body, field.end, children[field.number], size)
            header = _key(field.number) + _varint(child.length)
            added = [header, child]
            total += len(header) + child.length
        else:
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


def _points_to_blob(view: memoryview, start: int, end: int, marker: bytes) -> bool:
    return marker in bytes(view[start:end])


def _marker(number: int) -> bytes:
    """External data entry {location: marker} and data_location = EXTERNAL, as TensorProto fields."""
    location = f"{MARKER}{number}\0".encode()
    key = b"location"
    entry = _key(1) + _varint(len(key)) + key + _key(2) + _varint(len(location)) + location
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


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
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
        if stop > end or key >> 3 == 0:
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
