"""How many zeros tensors hold before and after, and how small a general compressor makes them."""

from __future__ import annotations

import math

import numpy as np

from modelopt.core.changes import Fact
from modelopt.io.compressed_size import COMPRESSOR, new_compressor

_MOST_BYTES = 8 << 20
"""How many bytes are compressed before and after, in half a second; of larger models evenly spaced blocks."""

_BLOCK_BYTES = 1 << 16


class ZeroCounts:
    """Counts over the tensors that are added, before and after.

    Args:
        total_bytes: The size of all tensors that will be added.
    """

    def __init__(self, total_bytes: int) -> None:
        self._share = min(1.0, _MOST_BYTES / max(total_bytes, 1))
        self._elements = self._zeros = self._stored_bytes = 0
        self._before, self._after = _Compressed(), _Compressed()

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Add one tensor: the same shape and dtype before and after."""
        self._elements += after.size
        self._zeros += after.size - int(np.count_nonzero(after))
        self._stored_bytes += after.nbytes
        self._before.add(before, self._share)
        self._after.add(after, self._share)

    def facts(self) -> dict[str, Fact]:
        """The figures for the report; call it once, at the end. Empty where nothing was added."""
        if not self._elements:
            return {}
        before, after = self._before.finish(), self._after.finish()
        scale, sampled = 1.0, ""
        if self._share < 1:
            scale = self._stored_bytes / self._after.read_bytes
            sampled = f", estimated from {self._after.read_bytes / 1e6:.0f} of {self._stored_bytes / 1e6:.0f} MB"
        return {
            "sparsity": self._zeros / self._elements,
            "zeros": self._zeros,
            "elements": self._elements,
            "stored_bytes": self._stored_bytes,
            "compressed_before_bytes": round(before * scale),
            "compressed_after_bytes": round(after * scale),
            "compressed_with": f"{COMPRESSOR}{sampled}",
        }


class _Compressed:
    """Tensors one after the other as one compressed stream, which is not kept."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self._size_bytes = 0
        self._stream = new_compressor()

    def add(self, array: np.ndarray, share: float) -> None:
        """Add a share of a tensor's bytes: all, or blocks at even distances."""
        stored = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        blocks = max(1, math.ceil(len(stored) / _BLOCK_BYTES))
        chosen = [0] if share >= 1 else np.unique(np.linspace(0, blocks - 1, math.ceil(share * blocks)).astype(int))
        length = len(stored) if share >= 1 else _BLOCK_BYTES
        for block in chosen:
            part = stored[block * length : (block + 1) * length]
            self._size_bytes += len(self._stream.compress(part.data))
            self.read_bytes += len(part)

    def finish(self) -> int:
        return self._size_bytes + len(self._stream.flush())
