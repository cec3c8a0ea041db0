"""Says which rules a model breaks."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import helper

from modelopt.graph import invariants
from tests.helpers import body

make = helper.make_node


def rules_broken_by(model: onnx.ModelProto) -> list[str]:
    return [str(violation) for violation in invariants.check(ir.from_proto(model))]


def branches(then: onnx.GraphProto, cond: str = "c", output: str = "y") -> onnx.NodeProto:
    other = body([make("Constant", [], ["e"], value_float=1.0)], ["e"])
    return make("If", [cond], [output], name="if", then_branch=then, else_branch=other)
