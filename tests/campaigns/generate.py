"""Seeded random models: every pattern that a pass looks for, crossed with what makes a rewrite wrong.

`model(seed)` composes blocks (a convolution and its normalization, a hardswish, a chain of reshapes, an If that
captures …) into a graph of 3 to 30 nodes, and plants hazards: shared, overridable and odd weights, weights in Constant
nodes, intermediates that are outputs, have two users or are captured by a body, symbolic dimensions, opsets 9 to
current, names that nobody expects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.campaigns.body_blocks import body_graph, if_block, loop_block, residual_block
from tests.campaigns.elementwise_blocks import (
    activation_block,
    affine_block,
    casts_block,
    clips_block,
    constant_chain_block,
    hardswish_block,
    neutral_block,
)
from tests.campaigns.image_blocks import (
    affine_conv_block,
    branches_block,
    conv_affine_block,
    conv_block,
    conv_norm_block,
    global_pool_block,
    mean_of_conv_block,
    pad_conv_block,
    pool_block,
)
from tests.campaigns.layout_blocks import (
    concat_of_slices_block,
    gathers_block,
    parts_of_concat_block,
    reshapes_block,
    shape_chain_block,
    slices_block,
    transposes_block,
)
from tests.campaigns.model_builder import BATCH, OTHER_BATCH, Block, Builder, Value
from tests.campaigns.normalization_blocks import instance_norm_block, layer_norm_block, norm_block
from tests.campaigns.sequence_blocks import (
    attention_block,
    gather_block,
    product_affine_block,
    product_block,
    products_block,
    rotary_block,
)

MAX_NODES = 30


@dataclass(frozen=True)
class Generated:
    """A model and what to run it on.

    Attributes:
        proto: The model.
        feeds: One dictionary, or two of different batch sizes where the batch is symbolic.
    """

    proto: onnx.ModelProto
    feeds: list[dict[str, np.ndarray]]


_ANY: tuple[Block, ...] = (
    affine_block, clips_block, hardswish_block, hardswish_block, activation_block, neutral_block, neutral_block,
    casts_block, transposes_block, reshapes_block, constant_chain_block, shape_chain_block, if_block, loop_block,
    residual_block, concat_of_slices_block, slices_block, parts_of_concat_block, gathers_block,
)  # fmt: skip

_IMAGE: tuple[Block, ...] = (
    conv_block, conv_norm_block, conv_norm_block, conv_affine_block, conv_affine_block, affine_conv_block,
    affine_conv_block, branches_block, branches_block, pad_conv_block, pool_block, norm_block, instance_norm_block,
    mean_of_conv_block, rotary_block,
)  # fmt: skip

_ROWS: tuple[Block, ...] = (
    product_block, products_block, product_affine_block, product_affine_block, layer_norm_block, gather_block,
    attention_block,
)  # fmt: skip

BLOCKS = tuple(dict.fromkeys((*_ANY, *_IMAGE, *_ROWS, global_pool_block)))


def model(seed: int) -> Generated:
    """The model of this seed: always the same."""
    b = Builder(seed)
    shape = b.pick([(BATCH, 4, 8, 8), (BATCH, 3, 6, 6), (BATCH, 6), (BATCH, 5, 4)])
    x = Value(b.name("x"), shape)
    b.inputs[x.name] = shape
    wanted = int(b.rng.integers(3, 20))
    values = [x]
    while len(b.nodes) < wanted:
        x = _block(b, x)(b, x)
        values.append(x)
        if b.chance(0.12):
            _hazard(b, b.pick(values[1:]))
        if b.chance(0.05):
            _hazard(b, _made(b))
    b.outputs.append(x if b.chance(0.8) else b.op("Identity", x, shape=x.shape))
    return _finish(b, shape)


def _block(b: Builder, x: Value) -> Block:
    if b.chance(0.45):
        found: Block = b.pick(_ANY)
        return found
    if len(x.shape) == 4:
        return global_pool_block if b.chance(0.06) else b.pick(_IMAGE)
    return b.pick(_ROWS)  # type: ignore[no-any-return]


def _made(b: Builder) -> Value:
    """A value inside some block: of its shape only the name is known."""
    kept = [node for node in b.nodes if node.op_type in {"Conv", "MatMul", "Add", "Mul", "Transpose", "Relu"}]
    return Value(b.pick(kept).output[0] if kept else b.nodes[-1].output[0], ())


def _hazard(b: Builder, value: Value) -> None:
    """Let something else see a value that passes would like to remove."""
    if any(out.name == value.name for out in b.outputs) or value.name in b.inputs:
        return
    form = b.pick(["output", "fan-out", "capture"])
    if form == "output":
        b.outputs.append(value)
        return
    if form == "fan-out":
        b.outputs.append(b.op(b.pick(["Neg", "Identity", "Abs"]), b.op("Cast", value, shape=(), to=1), shape=()))
        return
    bodies = []
    for op_type in ("Neg", "Identity"):
        inner = b.body()
        y = inner.op(op_type, value, shape=())
        flat = inner.op("ReduceMax", inner.op("Cast", y, shape=(), to=1), shape=(), keepdims=0)
        bodies.append(body_graph(inner, flat))
    condition = b.const(np.array(b.chance(0.5)), bool, plain=True)
    b.outputs.append(b.op("If", condition, shape=(), then_branch=bodies[0], else_branch=bodies[1]))


def _finish(b: Builder, shape: tuple[int, ...]) -> Generated:
    declared: list[int | str] = ["batch" if b.dynamic else shape[0], *shape[1:]]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, declared) for name in b.inputs]
    stored = [numpy_helper.from_array(array, name) for name, array in b.weights.items()]
    given = list(b.weights) if b.old_ir else b.overridable
    inputs += [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in stored
        if tensor.name in given
    ]
    kinds = {node.output[0]: _kind(node) for node in b.nodes}
    outputs = [helper.make_tensor_value_info(v.name, kinds.get(v.name, TensorProto.FLOAT), None) for v in b.outputs]
    whole = helper.make_graph(b.nodes, "generated", inputs, outputs, stored)
    ir_version = 3 if b.old_ir else min(10, helper.find_min_ir_version_for([helper.make_opsetid("", b.opset)]) + 2)
    proto = helper.make_model(whole, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=ir_version)
    batches = (BATCH, OTHER_BATCH) if b.dynamic else (BATCH,)
    rng = np.random.default_rng(b.opset)
    feeds = [
        {name: rng.normal(size=(batch, *sizes[1:])).astype(np.float32) for name, sizes in b.inputs.items()}
        for batch in batches
    ]
    return Generated(proto, feeds)


def _kind(node: onnx.NodeProto) -> int:
    if node.op_type == "Cast":
        return int(node.attribute[0].i)
    return int(TensorProto.INT64) if node.op_type == "Shape" else int(TensorProto.FLOAT)


def without(generated: Generated, index: int) -> Generated | None:
    """The same without node `index`, whose users read its first input instead; None where it has none."""
    proto = onnx.ModelProto()
    proto.CopyFrom(generated.proto)
    node = proto.graph.node[index]
    if not node.input or len(node.output) != 1:
        return None
    old, new = node.output[0], node.input[0]
    if any(value.name == old for value in proto.graph.output):
        outputs = [value for value in proto.graph.output if value.name != old]
        if not outputs:
            return None
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    del proto.graph.node[index]
    _rename(proto.graph.node, old, new)
    return replace(generated, proto=proto)


def _rename(nodes: Any, old: str, new: str) -> None:
    for node in nodes:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = new
        for attribute in node.attribute:
            _rename(attribute.g.node, old, new)
