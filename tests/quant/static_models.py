"""Models that static quantization is tried on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tests.quant_tools import model

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,3,12,12] x) => (float[n,5] y)
{
  c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1,1,1,1], group = 16> (r1, w2, b2)
  r2 = Clip (c2, zero, six)
  c3 = Conv (r2, w3, b1)
  sum = Add (c3, r1)
  r3 = Relu (sum)
  pool = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r3)
  mean = GlobalAveragePool (pool)
  flat = Flatten (mean)
  y = Gemm <transB = 1> (flat, w4, b4)
}
"""


def net(text: str = NET) -> ir.Model:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    return model(
        text,
        w1=normal(16, 3, 3, 3),
        b1=normal(16),
        w2=normal(16, 1, 3, 3),
        b2=normal(16),
        w3=normal(16, 16, 1, 1),
        w4=normal(5, 16),
        b4=normal(5),
        zero=np.zeros((), np.float32),
        six=np.full((), 6, np.float32),
    )
