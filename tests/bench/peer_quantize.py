"""Quantize a model with another tool, as its documentation shows; quantizers.py runs this in the peers' environment.

    python peer_quantize.py KIND MODEL OUT SAMPLES

KIND is one of ``ort-static``, ``ort-static-u8s8``, ``ort-dynamic`` and ``nncf``; SAMPLES is a folder of ``.npz`` files,
one for each sample, whose keys are the inputs' names. ``-reduced`` behind the second and the third is weights of seven
bits, which onnxruntime advises where the CPU has no VNNI.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the samples out one by one."""

    def __init__(self, samples: list[dict[str, np.ndarray]]) -> None:
        self._next = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample, None at the end."""
        return next(self._next, None)


def main(kind: str, model: str, out: str, folder: str) -> None:
    """Quantize."""
    samples = [dict(np.load(path)) for path in sorted(Path(folder).glob("*.npz"))]
    if kind == "nncf":
        import nncf  # type: ignore[import-not-found]

        onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(samples), subset_size=len(samples)), out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        ready = str(Path(scratch) / "ready.onnx")
        try:
            quant_pre_process(model, ready)  # what their documentation asks for
        except Exception as error:  # noqa: BLE001 - their own exceptions are of all kinds; it works without at times
            print(f"without pre-processing: {error}", file=sys.stderr)
            ready = model
        reduced = {"reduce_range": True} if kind.endswith("-reduced") else {}
        if kind.startswith("ort-dynamic"):
            quantize_dynamic(ready, out, **reduced)
            return
        best: dict[str, Any] = dict(reduced)
        if kind.startswith("ort-static-u8s8"):
            best |= {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(ready, out, Reader(samples), quant_format=QuantFormat.QDQ, **best)


if __name__ == "__main__":
    main(*sys.argv[1:])
