"""What a change to a model picks from: its graphs, nodes, attributes, tensors, values and names."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

import onnx
from onnx import AttributeProto, TensorProto

DATA_NAME = "model.data"
"""The data file of a mutant, beside the model."""


NUMBERS = (0, 1, -1, 2, 3, 7, -2, 8, 127, 255, -128, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-38, 3e38, float("nan"), float("inf"), float("-inf"))


def point_out(tensor: TensorProto, entries: dict[str, object]) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))


# What a change picks from


def scopes_of(proto: onnx.ModelProto) -> list[Any]:
    """The graph, all bodies and all functions."""
    found: list[Any] = [proto.graph, *proto.functions]
    for scope in found:
        for node in scope.node:
            for attribute in node.attribute:
                found += [attribute.g] if attribute.HasField("g") else []
                found += attribute.graphs
    return found


def nodes_of(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for scope in scopes_of(proto) for node in scope.node]


def a_node(rng: Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(nodes_of(proto) or [onnx.NodeProto()])


def an_attribute(rng: Random, proto: onnx.ModelProto) -> AttributeProto:
    found = [attribute for node in nodes_of(proto) for attribute in node.attribute]
    return rng.choice(found) if found else AttributeProto()


def a_tensor(rng: Random, proto: onnx.ModelProto) -> TensorProto:
    found = [tensor for scope in scopes_of(proto) for tensor in getattr(scope, "initializer", ())]
    found += [attribute.t for node in nodes_of(proto) for attribute in node.attribute if attribute.HasField("t")]
    return rng.choice(found) if found else TensorProto()


def a_value(rng: Random, proto: onnx.ModelProto) -> onnx.ValueInfoProto:
    found = [
        value
        for scope in scopes_of(proto)
        if isinstance(scope, onnx.GraphProto)
        for value in (*scope.input, *scope.output, *scope.value_info)
    ]
    return rng.choice(found) if found else onnx.ValueInfoProto()


_Proto = TypeVar("_Proto", onnx.NodeProto, onnx.AttributeProto, onnx.GraphProto)


def copy_of(proto: _Proto) -> _Proto:
    made = type(proto)()
    made.CopyFrom(proto)
    return made


def a_name(rng: Random, proto: onnx.ModelProto) -> str:
    names = [name for node in nodes_of(proto) for name in (*node.input, *node.output)]
    names += [tensor.name for tensor in proto.graph.initializer]
    return rng.choice([*names, "", "nowhere", rng.choice(names or [""])])
