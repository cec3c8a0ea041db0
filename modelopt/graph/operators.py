"""Sets of operators, and numbers of the specification, that several folders use."""

from __future__ import annotations

DATA_MOVEMENT = frozenset(
    {
        *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice", "Split"),
        *("Concat", "Pad", "Gather", "GatherND", "GatherElements", "DepthToSpace", "SpaceToDepth", "Compress"),
        "Dropout",
    }
)
"""Operators whose outputs hold elements of their first input (Concat: of all inputs) and compute nothing."""

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that multiply by a matrix or a kernel, a weight more often than not."""

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})

TO_THE_END = 2**31 - 1
"""The specification of Slice recommends INT_MAX as the end where a dimension is not known."""
