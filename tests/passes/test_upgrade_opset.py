"""What onnx's version converter gets wrong: repaired, or refused in one line."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import Refused
from modelopt.io import serialize
from modelopt.passes.upgrade_opset import UpgradeOpset
from tests.runtime_tools import session


def test_before_ir_version_4_what_became_an_input_is_a_constant_node(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 3, opset_import: ["" : 6]>
        g (float[1, 4] x, bool c) => (float[1, 6] y) {
          p = Pad <mode = "reflect", pads = [0, 1, 0, 1]> (x)
          y = If (c) <
            then_branch = t () => (float[1, 6] a) { a = Identity (p) },
            else_branch = f () => (float[1, 6] b) { b = Pad <pads = [0, 2, 0, 0]> (x) } >
        }"""
    )
    x = np.array([[1, 2, 3, 4]], np.float32)
    before = [_run(model, x, branch) for branch in (True, False)]
    assert UpgradeOpset().apply(model, context).rewrites == 1
    assert model.ir_version == 3
    assert not any(scope.initializers for scope in graph.all_graphs(model) if isinstance(scope, ir.Graph))
    onnx.checker.check_model(serialize.to_bytes(model))
    after = [_run(model, x, branch) for branch in (True, False)]
    assert [array.tolist() for array in after] == [array.tolist() for array in before]


def _run(model: ir.Model, x: np.ndarray, branch: bool) -> np.ndarray:
    (found,) = session(model).run(None, {"x": x, "c": np.array(branch)})
    return np.asarray(found)


def test_scan_over_a_batch_is_refused(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 3, opset_import: ["" : 8]>
        g (float[1, 2] initial, float[1, 3, 2] x) => (float[1, 2] y, float[1, 3, 2] z) {
          y, z = Scan <num_scan_inputs = 1, body = b (float[2] sum, float[2] next) => (float[2] out, float[2] each)
            { out = Add (sum, next) each = Identity (out) } > ("", initial, x)
        }"""
    )
    with pytest.raises(Refused) as caught:
        UpgradeOpset().apply(model, context)
    assert "Scan of opset 8" in (caught.value.note or "")
    assert graph.opset(model) == 8


_ONE_NODE = """<ir_version: 10, opset_import: ["" : %d]> g (float[4] x) => (float[4] y) { y = %s (x) }"""


def test_what_onnxruntime_would_not_load_is_refused(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ir.from_onnx_text(_ONE_NODE % (17, "Relu"))
    broken = ir.from_onnx_text(_ONE_NODE % (18, "NoSuchOperator"))
    monkeypatch.setattr(context.runner, "convert_opset", lambda _model, _version: broken)
    with pytest.raises(Refused) as caught:
        UpgradeOpset(version=18).apply(model, context)
    assert "onnxruntime does not load what the converter gives" in (caught.value.note or "")
    assert graph.opset(model) == 17


def test_what_onnxruntime_did_not_load_before_is_converted_all_the_same(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 17, "unknown" : 1]>
        g (float[4] x) => (float[4] y) { r = Relu (x) y = unknown.Thing (r) }"""
    )
    assert UpgradeOpset(version=18).apply(model, context).rewrites == 1
    assert graph.opset(model) == 18
