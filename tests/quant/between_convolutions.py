"""Models of two convolutions with something between them, and their quantization."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from modelopt.core.changes import Changes
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, random_feeds

EVERYWHERE = QuantizeStatic(everywhere=True)
BETWEEN = """
<ir_version: 8, opset_import: ["" : VERSION]>
net (float[1,4,6,6] x) => (float[a,b,c,d] y)
<int64[4] two = {1, 1, 2, 2}, int64[1] one = {1}, float[4] by = {1, 1, 2, 2}, int64[2] rows = {1, 3},
 int64[1,4,1,1] places = {{0, 1, 2, 1}}, float small = {{0.3}}, int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}},
 int64[2] spatial = {{2, 3}}>
{{ u = Conv (x, w)  {body}  y = Conv (v, w) }}
"""
WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32) / 2
CONSTANTS: dict[str, np.ndarray] = {
    "w": WEIGHT,
    "square": np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32),
    "chans": np.array([1, 4, 1, 1]),
    "big": np.full((), 40, np.float32),
    "third": np.array([-0.3], np.float32),
    "zero": np.array([0], np.float32),
}


def between(body: str, version: int = 17) -> ir.Model:
    text = BETWEEN.replace("{{", "{").replace("}}", "}").replace("{body}", body).replace("VERSION", str(version))
    return model(text, **{name: array for name, array in CONSTANTS.items() if name == "w" or name in body})


def feeds(n: int = 6) -> list[dict[str, np.ndarray]]:
    return random_feeds(1, 4, 6, 6, n=n)


def quantized(net: ir.Model, runner: WorkerRunner, config: QuantizeStatic = EVERYWHERE) -> Changes:
    return config.apply(net, context(runner, feeds()))
