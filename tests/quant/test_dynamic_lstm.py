"""Dynamic quantization of LSTM nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.graph import invariants
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, kernels, model, relative_error, run

RNG = np.random.default_rng(0)


LSTM = """
<ir_version: 8, opset_import: ["" : 14]>
net (float[t,b,6] x, int32[b] lengths) => (float[t,2,b,5] y, float[2,b,5] h, float[2,b,5] c)
{ [lstm] y, h, c = LSTM <hidden_size = 5, direction = "bidirectional", clip = 3.0> (x, w, r, b, lengths, h0, c0, p) }
"""


def lstm_tensors(directions: int = 2, hidden: int = 5, width: int = 6, batch: int = 3) -> dict[str, np.ndarray]:
    shapes = {
        "w": (directions, 4 * hidden, width),
        "r": (directions, 4 * hidden, hidden),
        "b": (directions, 8 * hidden),
        "h0": (directions, batch, hidden),
        "c0": (directions, batch, hidden),
        "p": (directions, 3 * hidden),
    }
    return {name: np.asarray(RNG.standard_normal(shape) / 2, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("per_channel", [False, True])
def test_an_lstm_with_everything(runner: WorkerRunner, tmp_path: Path, per_channel: bool) -> None:
    tensors = lstm_tensors()
    x = RNG.standard_normal((4, 3, 6)).astype(np.float32)
    feeds = {"x": x, "lengths": np.array([4, 2, 3], np.int32)}
    reference = run(model(LSTM, **tensors), feeds)
    result = model(LSTM, **tensors)
    changes = QuantizeDynamic(everywhere=True, per_channel=per_channel).apply(result, context(runner))
    assert changes.rewrites == 1
    assert changes.facts["onnxruntime_only"] == "DynamicQuantizeLSTM"
    assert invariants.check(result) == []
    for float_output, output in zip(reference, run(result, feeds), strict=True):
        assert relative_error(float_output, output) < 0.03
    assert kernels(result, tmp_path)["DynamicQuantizeLSTM"] == 1
    assert result.graph.initializers["w_quantized"].dtype == ir.DataType.INT8
    assert {"w", "r"}.isdisjoint(result.graph.initializers)


def test_a_weight_that_two_lstms_share_is_stored_once(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 14]>
    net (float[t,b,6] x) => (float[t,1,b,5] y, float[t,1,b,5] z)
    {
      y = LSTM <hidden_size = 5> (x, w, r)
      z = LSTM <hidden_size = 5, direction = "reverse"> (x, w, r)
    }
    """
    tensors = {name: array for name, array in lstm_tensors(directions=1).items() if name in {"w", "r"}}
    feeds = {"x": RNG.standard_normal((4, 2, 6)).astype(np.float32)}
    reference = run(model(text, **tensors), feeds)
    result = model(text, **tensors)
    assert QuantizeDynamic(everywhere=True).apply(result, context(runner)).rewrites == 2
    assert len(result.graph.initializers) == 6
    for float_output, output in zip(reference, run(result, feeds), strict=True):
        assert relative_error(float_output, output) < 0.03


@pytest.mark.parametrize(("units", "rewritten"), [(16, 0), (256, 1)])
def test_an_lstm_by_default_only_where_it_pays(runner: WorkerRunner, units: int, rewritten: int) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 14]>
    net (float[32,batch,{units}] x) => (float[32,1,batch,{units}] y)
    {{ y = LSTM <hidden_size = {units}> (x, w, r) }}
    """
    tensors = lstm_tensors(directions=1, hidden=units, width=units)
    result = model(text, w=tensors["w"], r=tensors["r"])
    changes = QuantizeDynamic().apply(result, context(runner))
    assert changes.rewrites == rewritten
    assert rewritten or "save less" in changes.skipped[0].reason
