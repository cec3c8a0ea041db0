"""HardSigmoid as an integer addition: the integers are those of the operator's definition, to one step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.quant.static import hard_sigmoid
from tests.quant_tools import op_types, run

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[256] x) => (float[256] y)
<float scale = {SCALE}, TYPE zero = {ZERO}, float step = {STEP}, TYPE low = {LOW}>
{
  a = QuantizeLinear (x, scale, zero)
  b = DequantizeLinear (a, scale, zero)
  c = HardSigmoid <alpha = ALPHA, beta = BETA> (b)
  d = QuantizeLinear (c, step, low)
  y = DequantizeLinear (d, step, low)
}
"""
STEP = 1 / 255


def between(dtype: str, scale: float, zero: int, alpha: float, beta: float, step: float = STEP) -> ir.Model:
    info = np.iinfo(dtype)
    words = {"SCALE": scale, "ZERO": zero + info.min, "STEP": step, "LOW": info.min, "ALPHA": alpha, "BETA": beta}
    text = TEXT.replace("TYPE", dtype)
    for word, value in words.items():
        text = text.replace(word, repr(value))
    return ir.from_onnx_text(text)


@given(
    st.sampled_from(["uint8", "int8"]),
    st.floats(0.01, 0.5),
    st.integers(0, 255),
    st.floats(0.05, 4),
    st.floats(0, 1),
)
def test_the_values_are_the_operators_to_one_step(
    dtype: str, scale: float, zero: int, alpha: float, beta: float
) -> None:
    model = between(dtype, scale, zero, alpha, beta)
    assert hard_sigmoid.rewrite(model) == 1
    assert op_types(model)["HardSigmoid"] == 0
    x = ((np.arange(256) - zero) * np.float32(scale)).astype(np.float32)
    wanted = np.clip(alpha * x.astype(np.float64) + beta, 0, 1)
    found = run(model, {"x": x})[0]
    assert np.abs(found - wanted).max() < 1.01 * STEP
    assert (found[wanted == 0] == 0).all()
    assert (found[wanted == 1] == 1).all()


@pytest.mark.parametrize(
    "model",
    [
        between("uint8", 0.1, 0, -1.0, 0.5),
        between("uint8", 0.1, 0, 0.2, 1.5),
        between("uint8", 0.1, 0, 0.2, 0.5, 1 / 200),
    ],
    ids=["falls", "starts above 1", "another range"],
)
def test_what_does_not_fit_stays(model: ir.Model) -> None:
    assert hard_sigmoid.rewrite(model) == 0
    assert op_types(model)["HardSigmoid"] == 1
