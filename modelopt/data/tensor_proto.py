"""One serialized ONNX TensorProto (``input_0.pb``) as an array."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir
from google.protobuf.message import DecodeError

from modelopt.core.errors import InputError, Refused
from modelopt.data import user_files

_BROKEN = (DecodeError, ValueError, TypeError, KeyError, AssertionError, MemoryError, OverflowError)

_MAX_VALUES_PER_BYTE = 4
"""The densest encoding packs four 2-bit values in a byte: a shape that needs more values than that is refused."""


def read_tensor(path: Path) -> np.ndarray:
    """Parse a TensorProto file; bfloat16 and the like come back as ml_dtypes arrays.

    Raises:
        InputError: Not a regular file, larger than `MAX_ARRAY_BYTES`, or not a TensorProto that holds the
            values its shape promises.
        Refused: A tensor of strings, or one that keeps its values in another file.
    """
    data = user_files.read_bytes(path, user_files.MAX_ARRAY_BYTES)
    proto = onnx_ir.to_proto(onnx_ir.tensor(np.zeros((), np.uint8)))  # the message type, without importing onnx
    try:
        proto.ParseFromString(data)
        if proto.data_location == proto.EXTERNAL:
            raise Refused(f"{path} keeps its values in another file", hint="save the values in the .pb itself")
        if proto.data_type == proto.STRING:
            raise Refused(f"{path} holds strings", hint="save them as a numpy unicode array in a .npz")
        if min(proto.dims, default=0) < 0 or math.prod(proto.dims) > _MAX_VALUES_PER_BYTE * len(data):
            raise ValueError(f"shape {list(proto.dims)} in a file of {len(data)} bytes")
        return np.array(onnx_ir.serde.deserialize_tensor(proto).numpy(), order="C")
    except _BROKEN as error:
        raise InputError(
            f"{path} is not a tensor in ONNX's format",
            note=f"{type(error).__name__}: {error}",
            hint="write it with onnx.numpy_helper.from_array(array).SerializeToString()",
        ) from None
