"""What the base classes of passes give, and what they refuse, when a pass is written."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.graph.match import NOT_HERE, Mismatch
from modelopt.passes.base import Pass, RewritePass
from modelopt.passes.prune_channels import PruneChannels
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.patterns.rewriter import Rewrite


class DropNegTwice(RewritePass):
    """Remove Neg after Neg."""

    def rule(self, node: ir.Node, opset: int, names: graph.NameSource) -> Rewrite | Mismatch:
        first = None if node.op_type != "Neg" or node.inputs[0] is None else node.inputs[0].producer()
        if first is None or first.op_type != "Neg" or first.inputs[0] is None:
            return NOT_HERE
        node_output, x = node.outputs[0], first.inputs[0]
        return lambda: graph.replace_value(node_output, x)


def test_the_name_is_derived() -> None:
    assert DropNegTwice.name == "drop-neg-twice"
    assert DropNegTwice.effect is Effect.EXACT


def test_what_dies_is_removed_with_all_that_only_it_read(context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y)
        <float[2] c = {1, 2}>
        { a = Add (x, c) b = Neg (a) d = Neg (b) y = Relu (d) }"""
    )
    assert DropNegTwice().apply(model, context).rewrites == 1
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]


def test_a_long_list_of_an_option_is_counted_where_a_pass_is_named() -> None:
    """A search may leave hundreds of nodes in float, and the name is a cell of the report's table."""
    assert str(QuantizeStatic(exclude=("a",))) == "quantize-static(exclude=['a'])"
    names = tuple(f"encoder/layer.{number}/MatMul" for number in range(12))
    assert str(QuantizeStatic(exclude=names)) == "quantize-static(exclude=[12 items])"
    widths = ("/0/Conv=10", "/11/Gemm=57")
    assert str(PruneChannels(widths=widths, align=8)) == "prune-channels(widths=[2 items], align=8)"
    assert QuantizeStatic(exclude=names).options() == {"exclude": list(names)}


def test_a_name_that_does_not_fit_the_class_is_refused() -> None:
    with pytest.raises(TypeError, match="must be 'fuse-nothing', not 'nothing'"):

        class FuseNothing(RewritePass):
            """Fuse nothing."""

            name: ClassVar[str] = "nothing"


def test_a_pass_without_a_claim_is_refused() -> None:
    with pytest.raises(TypeError, match="FuseNothing must set the class attribute 'effect'"):

        class FuseNothing(Pass):
            """Fuse nothing."""

            def apply(self, model: ir.Model, ctx: Context) -> Changes:
                return Changes()


def test_a_pass_without_a_summary_is_refused() -> None:
    with pytest.raises(TypeError, match="FuseNothing needs a docstring"):

        class FuseNothing(RewritePass):
            pass
