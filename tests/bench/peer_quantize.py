"""Quantize a model with another tool, as its documentation shows; quantizers.py runs this in the peers' environment.

    python peer_quantize.py KIND MODEL OUT SAMPLES

KIND is one of ``ort-static``, ``ort-static-u8s8``, ``ort-dynamic`` and ``nncf``; SAMPLES is a folder of ``.npz`` files,
one for each sample, whose keys are the inputs' names. ``-reduced`` behind the second and the third is weights of seven
bits, which onnxruntime advises where the CPU has no VNNI.
"""

from __future__ import annotations

import contextlib
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


def pre_processed(model: str, ready: str) -> str:
    """The model after what their documentation asks for first, with as much of it as works."""
    for skipped in (False, True):
        try:
            quant_pre_process(model, ready, skip_symbolic_shape=skipped)
        except Exception as error:  # noqa: BLE001 - their own exceptions are of all kinds
            print(f"pre-processing, symbolic shapes {'left out' if skipped else 'asked for'}: {error}", file=sys.stderr)
        else:
            return ready
    return model


def main(kind: str, model: str, out: str, folder: str) -> None:
    """Quantize."""
    samples = [dict(np.load(path)) for path in sorted(Path(folder).glob("*.npz"))]
    model, out = str(Path(model).resolve()), str(Path(out).resolve())
    if kind == "nncf":
        import nncf  # type: ignore[import-not-found]

        onnx.save(nncf.quantize(onnx.load(model), nncf.Dataset(samples), subset_size=len(samples)), out)
        return
    # Pre-processing leaves files of its own in the working folder.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        ready = pre_processed(model, str(Path(scratch) / "ready.onnx"))
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
