"""A model that a Python program gives: a path, or an object in memory that is written to a file first."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from modelopt.core.errors import InputError, Refused
from modelopt.io.staging import write_aside
from modelopt.io.writing import write_chunks

ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
"""A path, the bytes of a model file, or a model in memory."""


def file_of(model: ModelLike, path: Path) -> Path:
    """The file of a model: its own path, or `path`, which is written for a model in memory.

    Raises:
        InputError: It is no model.
        Refused: It is too large for one message.
        EnvironmentLacks: The disk is full.
    """
    if isinstance(model, str | os.PathLike):
        return Path(model)
    if isinstance(model, ir.Model):
        write_aside(model, path)
    elif isinstance(model, bytes):
        write_chunks(path, [model])
    elif isinstance(model, onnx.ModelProto):
        try:
            payload = model.SerializeToString(deterministic=True)
        except ValueError as error:  # Protobuf messages end at 2 GiB
            raise Refused(
                "the ModelProto cannot be serialized", note=str(error), hint="give its path instead"
            ) from None
        write_chunks(path, [payload])
    else:
        raise InputError(
            f"a {type(model).__name__} is not a model",
            hint="give a path, the bytes of a model, an onnx.ModelProto or an onnx_ir.Model",
        )
    return path
