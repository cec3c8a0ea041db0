"""What the builders of bombs share: sizes, models, and the list that each is added to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

HUGE = 2**40
"""A number of elements that no machine holds."""


LARGE = 2**29
"""A number of float32 elements that takes 2 GiB: a machine may hold it, and the limit of a bomb is 400 MB."""


CHAIN = 200_000
"""How many nodes the long chains have."""


_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
_Z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
DEEP = 60
Build = Callable[[], bytes]
MODELS: dict[str, Build] = {}
"""By name the builder of the bytes of each model."""


def listed(build: Build) -> Build:
    MODELS[build.__name__.strip("_")] = build
    return build


def model_of(
    nodes: Sequence[NodeProto],
    stored: Mapping[str, np.ndarray] | None = None,
    *,
    inputs: Sequence[ValueInfoProto] = (_X,),
    outputs: Sequence[ValueInfoProto] = (_Z,),
    opset: int = 17,
) -> ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def summed_model(
    nodes: Sequence[NodeProto], stored: Mapping[str, np.ndarray], *, opset: int = 17, cast: bool = False
) -> bytes:
    """A model that adds the sum of the value ``big``, which `nodes` compute, to its input."""
    last = [helper.make_node("Cast", ["big"], ["cast"], to=TensorProto.FLOAT)] if cast else []
    last += [
        helper.make_node("ReduceSum", ["cast" if cast else "big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["z"]),
    ]
    return model_of([*nodes, *last], stored, opset=opset).SerializeToString()


def node_of(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("big",), **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


ONE = np.ones(1, np.float32)
