"""A decomposed normalization of a tensor without axes is left as it is: it names an axis that is not there."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from modelopt.passes.fuse_layer_norm import FuseLayerNorm
from modelopt.passes.fuse_rms_norm import FuseRmsNorm
from tests.helpers import WITHOUT_RUNNER

CENTERED = "m = ReduceMean <axes = [-1]> (x)  c = Sub (x, m)"
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float x) => (float y)
<float two = {2}, float tiny = {1e-5}>
{ CENTER  p = Pow (c, two)  v = ReduceMean <axes = [-1]> (p)  e = Add (v, tiny)  r = Sqrt (e)  y = Div (c, r) }
"""


@pytest.mark.parametrize(
    ("kind", "center"), [(FuseLayerNorm, CENTERED), (FuseRmsNorm, "c = Identity (x)")], ids=["layer", "RMS"]
)
def test_it_stays(kind: type[FuseLayerNorm | FuseRmsNorm], center: str) -> None:
    model = ir.from_onnx_text(NET.replace("CENTER", center))
    for value in (value for node in model.graph for value in node.outputs):
        value.shape = ir.Shape([])
    before = [node.op_type for node in model.graph]
    assert kind().apply(model, WITHOUT_RUNNER).rewrites == 0
    assert [node.op_type for node in model.graph] == before
