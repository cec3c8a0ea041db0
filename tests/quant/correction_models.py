"""Models whose quantization is corrected, their samples, and the mean error of their outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.quant_tools import model

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,3,8,8] x) => (float[n,6] y)
{
  c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1,1,1,1], group = 8> (r1, w2)
  r2 = Relu (c2)
  mean = GlobalAveragePool (r2)
  flat = Flatten (mean)
  y = Gemm <transB = 1> (flat, w3, b3)
}
"""


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)


def spread(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Channels of very different sizes: one scale for all of them is too coarse for most."""
    sizes = np.exp2(rng.uniform(-6, 6, (shape[0], *[1] * (len(shape) - 1))))
    return np.asarray(normal(rng, *shape) * sizes, np.float32)


def net(seed: int = 0) -> ir.Model:
    rng = np.random.default_rng(seed)
    return model(
        NET,
        w1=spread(rng, 8, 3, 3, 3),
        b1=normal(rng, 8),
        w2=normal(rng, 8, 1, 3, 3),
        w3=normal(rng, 6, 8),
        b3=normal(rng, 6),
    )


def images(n: int = 12, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 8, 8), np.float32) + 0.5} for _ in range(n)]


def rows(n: int = 12, seed: int = 1, *, outliers: float = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    scale = np.ones(16, np.float32)
    scale[3] = outliers
    return [{"x": (rng.standard_normal((1, 5, 16)) * scale + 0.25).astype(np.float32)} for _ in range(n)]
