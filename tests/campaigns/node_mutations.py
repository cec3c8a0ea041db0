"""Seeded damage to operators, attributes and edges of a model."""

from __future__ import annotations

from collections.abc import MutableSequence
from random import Random

import onnx
from onnx import AttributeProto, helper

from tests.campaigns.mutation_picks import FLOATS, NUMBERS, a_name, a_node, an_attribute, copy_of, nodes_of, scopes_of

_OPERATORS = (
    *("Add", "Mul", "Sub", "Div", "Conv", "Gemm", "MatMul", "Relu", "Clip", "Cast", "Reshape", "Transpose", "Concat"),
    *("Slice", "Gather", "Shape", "Constant", "ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Split"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "Dropout", "Identity", "If", "Loop", "Scan"),
    *("Softmax", "ReduceMean", "Squeeze", "Unsqueeze", "Einsum", "Where", "NonZero", "TopK", "LSTM", "QuantizeLinear"),
    *("DequantizeLinear", "SequenceEmpty", "SequenceAt", "OptionalHasElement", "OneHot", "CumSum", "Attention"),
    *("", "F", "FusedMatMul", "NoSuchOperator", "Ünï\x1b[31m"),
)


DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "no.such.domain", "ai.onnx.training")


# Changes


def operator(rng: Random, proto: onnx.ModelProto) -> None:
    a_node(rng, proto).op_type = rng.choice(_OPERATORS)


def domain(rng: Random, proto: onnx.ModelProto) -> None:
    a_node(rng, proto).domain = rng.choice(DOMAINS)


def attribute_value(rng: Random, proto: onnx.ModelProto) -> None:
    attribute = an_attribute(rng, proto)
    attribute.i = rng.choice(NUMBERS)
    attribute.f = rng.choice(FLOATS)
    attribute.s = rng.choice((b"", b"NOTSET", b"SAME_UPPER", b"\xff\xfe", b"constant", b"ij,jk->ik"))
    if attribute.ints and rng.random() < 0.7:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
    elif rng.random() < 0.5:
        del attribute.ints[rng.randrange(4) :]
    else:
        attribute.ints.extend(rng.choices(NUMBERS, k=rng.randrange(4)))


def attribute_removed(rng: Random, proto: onnx.ModelProto) -> None:
    node = rng.choice([node for node in nodes_of(proto) if node.attribute] or [onnx.NodeProto()])
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def attribute_twice(rng: Random, proto: onnx.ModelProto) -> None:
    kept = copy_of(an_attribute(rng, proto))  # it may hold the place that it goes to
    a_node(rng, proto).attribute.add().CopyFrom(kept)


def attribute_type(rng: Random, proto: onnx.ModelProto) -> None:
    attribute = an_attribute(rng, proto)
    if rng.random() < 0.2:
        attribute.ref_attr_name = rng.choice(("", "alpha", attribute.name))
        return
    attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))  # type: ignore[assignment]


def attribute_name(rng: Random, proto: onnx.ModelProto) -> None:
    an_attribute(rng, proto).name = rng.choice(("", "axis", "axes", "value", "to", "perm", "body", "then_branch"))


def attribute_added(rng: Random, proto: onnx.ModelProto) -> None:
    values = (*NUMBERS, 0.5, "text", [1, 0], [0.5], ["a"], [2**62, -1])
    name = rng.choice(("axis", "axes", "perm", "alpha", "to", "epsilon", "keepdims", "group", "pads", "shape", "value"))
    a_node(rng, proto).attribute.append(helper.make_attribute(name, rng.choice(values)))


def edge_in(rng: Random, proto: onnx.ModelProto) -> None:
    _edge(rng, proto, a_node(rng, proto).input)


def edge_out(rng: Random, proto: onnx.ModelProto) -> None:
    _edge(rng, proto, a_node(rng, proto).output)


def _edge(rng: Random, proto: onnx.ModelProto, names: MutableSequence[str]) -> None:
    """Another name in place of one, one fewer, or one more."""
    kind = rng.random()
    if names and kind < 0.6:
        names[rng.randrange(len(names))] = a_name(rng, proto)
    elif names and kind < 0.8:
        del names[rng.randrange(len(names))]
    else:
        names.append(a_name(rng, proto))


def node_twice(rng: Random, proto: onnx.ModelProto) -> None:
    kept = copy_of(a_node(rng, proto))
    rng.choice(scopes_of(proto)).node.add().CopyFrom(kept)


def node_removed(rng: Random, proto: onnx.ModelProto) -> None:
    scope = rng.choice(scopes_of(proto))
    if scope.node:
        del scope.node[rng.randrange(len(scope.node))]


def nodes_swapped(rng: Random, proto: onnx.ModelProto) -> None:
    scope = rng.choice(scopes_of(proto))
    if len(scope.node) > 1:
        first, second = rng.sample(range(len(scope.node)), 2)
        kept = copy_of(scope.node[first])
        scope.node[first].CopyFrom(scope.node[second])
        scope.node[second].CopyFrom(kept)
