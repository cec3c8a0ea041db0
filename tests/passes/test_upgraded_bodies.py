"""Opsets upgraded in bodies and functions, and what is refused."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from modelopt import graph, io
from modelopt.calibration.context import Context
from modelopt.core.errors import Refused
from modelopt.graph import invariants
from modelopt.passes.upgrade_opset import UpgradeOpset
from tests.consteval.folding_command import fold
from tests.paths import SAMPLE_MODELS
from tests.runtime_tools import session

# upgrade-opset


def test_axes_become_inputs_in_bodies_too(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 7, opset_import: ["" : 11]>
        g (float[1, 4] x, bool c) => (float[4] y) {
          y = If (c) <
            then_branch = t () => (float[4] p) { p = Squeeze <axes = [0]> (x) },
            else_branch = f () => (float[4] q) { r = Relu (x) q = Squeeze <axes = [0]> (r) } >
        }"""
    )
    assert UpgradeOpset(version=13).apply(model, context).rewrites == 1
    assert invariants.check(model) == []
    squeezes = [node for node in graph.all_nodes(model) if node.op_type == "Squeeze"]
    assert [graph.constant(node.inputs[1]).tolist() for node in squeezes] == [[0], [0]]  # type: ignore[union-attr]
    session(model)


def test_functions_are_refused_for_the_converter_drops_them(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 11, "l" : 1]>
        g (float[4] x) => (float[4] y) { y = l.F (x) }
        <domain: "l", opset_import: ["" : 11]>
        F (a) => (b) { b = Relu (a) }"""
    )
    with pytest.raises(Refused, match="opset 11 and cannot be converted to 17") as caught:
        UpgradeOpset().apply(model, context)
    assert "drops functions" in (caught.value.note or "")
    assert graph.opset(model) == 11


def test_an_opset_that_does_not_exist_is_refused(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { y = Relu (x) }"""
    )
    with pytest.raises(Refused):
        UpgradeOpset(version=1000).apply(model, context)


def test_declared_dimensions_keep_their_names_and_the_result_is_verified(tmp_path: Path) -> None:
    source = SAMPLE_MODELS / "ppocr_cls" / "model.onnx"
    report = fold(source, tmp_path / "out.onnx", UpgradeOpset(version=16), seed=1)
    assert report.verification is not None
    before, after = (graph.signature(io.load(path, scratch=tmp_path).model) for path in (source, tmp_path / "out.onnx"))
    assert before == after
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 16
