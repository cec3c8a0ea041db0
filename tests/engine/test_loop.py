"""The loop over passes: what it looks up, and how often."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from modelopt.calibration.context import Context
from modelopt.core.signature import Signature
from modelopt.engine import datasets, loop
from modelopt.recipe import pipelines

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) { %s }"""


@pytest.mark.parametrize(("body", "most"), [("y = Relu (x)", 2), ("i = Identity (x) y = Relu (i)", 4)])
def test_the_signature_is_found_anew_only_where_something_changed(
    body: str, most: int, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may have thousands of inputs, and a pipeline has dozens of passes."""
    found: list[Signature] = []

    def counted(model: ir.Model) -> Signature:
        found.append(datasets.signature_of(model))
        return found[-1]

    monkeypatch.setattr(loop, "signature_of", counted)
    results = loop.apply(pipelines.expand("fuse"), ir.from_onnx_text(TEXT % body), context)
    assert len(results) > 10
    assert 1 <= len(found) <= most
