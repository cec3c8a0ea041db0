"""Models that take or give integers where the original has floats, and what those integers stand for.

Such a model says so in its metadata. What measures it converts, so that data, metrics and comparisons stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from modelopt.core.signature import Signature, TensorSpec

KEY = "modelopt.integers"
"""Where ``metadata_props`` hold an `IntegerIo` as JSON."""


_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class QuantizationParameters(msgspec.Struct, frozen=True):
    """The float behind an integer q: (q - zero_point) · scale, as QuantizeLinear and DequantizeLinear have it.

    Attributes:
        dtype: The integers' numpy dtype.
        scale: Positive, normal and finite in float32.
        zero_point: One of the integers.
    """

    dtype: Literal["uint8", "int8", "uint16", "int16"]
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        """Refuse numbers that no integer model has."""
        bounds = np.iinfo(self.dtype)
        if not (_TINY <= self.scale <= _HUGE and bounds.min <= self.zero_point <= bounds.max):
            raise ValueError(f"scale {self.scale} or zero point {self.zero_point} is out of range")

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """float32 of any shape to integers, computed in float32 as runtimes do; what is out of range saturates."""
        bounds = np.iinfo(self.dtype)
        steps = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(steps, bounds.min, bounds.max)).astype(self.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Integers of any shape to float32."""
        return np.asarray((integers.astype(np.int32) - self.zero_point) * np.float32(self.scale), np.float32)

    def __str__(self) -> str:
        return f"{self.dtype}, scale {self.scale:.6g}, zero point {self.zero_point}"


class IntegerIo(msgspec.Struct, frozen=True):
    """The inputs and outputs of a model that are integers, by name."""

    inputs: dict[str, QuantizationParameters] = {}
    outputs: dict[str, QuantizationParameters] = {}

    def where(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> IntegerIo:
        """Those whose numpy dtype, given for inputs and outputs by name, is the declared one."""
        return IntegerIo(_real(self.inputs, inputs), _real(self.outputs, outputs))


def _real(listed: Mapping[str, QuantizationParameters], dtypes: Mapping[str, str]) -> dict[str, QuantizationParameters]:
    return {name: affine for name, affine in listed.items() if dtypes.get(name) == affine.dtype}


def declared(metadata: Mapping[str, str]) -> IntegerIo:
    """What the metadata declare; nothing where the entry is missing, or cannot be read: anyone may write it."""
    try:
        return msgspec.json.decode(metadata.get(KEY, "{}"), type=IntegerIo)
    except (msgspec.MsgspecError, ValueError):
        return IntegerIo()


def in_floats(signature: Signature, metadata: Mapping[str, str]) -> Signature:
    """The signature that data, metrics and comparisons see: declared integers are float32."""
    dtypes = ({spec.name: spec.dtype for spec in specs} for specs in (signature.inputs, signature.outputs))
    io = declared(metadata).where(*dtypes)
    return Signature(_floats(signature.inputs, io.inputs), _floats(signature.outputs, io.outputs))


def _floats(specs: tuple[TensorSpec, ...], listed: Mapping[str, QuantizationParameters]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec.name, "float32", spec.shape) if spec.name in listed else spec for spec in specs)
