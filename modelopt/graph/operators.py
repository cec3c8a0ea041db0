"""Sets of operators that several folders use."""

from __future__ import annotations

DATA_MOVEMENT = frozenset(
    {
        *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice", "Split"),
        *("Concat", "Pad", "Gather", "GatherND", "GatherElements", "DepthToSpace", "SpaceToDepth", "Compress"),
        "Dropout",
    }
)
"""Operators whose outputs hold elements of their first input (Concat: of all inputs) and compute nothing."""
