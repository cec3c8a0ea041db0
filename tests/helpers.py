"""What tests of any folder share: small models, and the context of a pass that runs no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelopt.calibration.context import Context
from modelopt.core import targets


class _NoRunner:
    """Fails the test in which a pass runs a model."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the pass asked the runner to {name}")


WITHOUT_RUNNER = Context(runner=_NoRunner(), target=targets.resolve("x86-vnni"))
"""The context of passes that run no model."""


def weight(name: str, values: int, seed: int = 0) -> TensorProto:
    """A float tensor with `values` elements and raw data."""
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=values).astype(np.float32), name)


def info(name: str, shape: Sequence[int | str] | None = (4,), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A tensor input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A float model of opset 18 that imports `domains` too."""
    graph = helper.make_graph(
        list(nodes), "g", [info(name) for name in inputs], [info(name) for name in outputs], list(initializers)
    )
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def body(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    *,
    inputs: Sequence[onnx.ValueInfoProto] = (),
    initializers: Sequence[TensorProto] = (),
) -> onnx.GraphProto:
    """The body of an If or a Loop."""
    return helper.make_graph(list(nodes), "body", list(inputs), [info(name, None) for name in outputs], initializers)


def big_model() -> onnx.ModelProto:
    """Large tensors in every place that can hold one: initializer, Constant, both branches of an If, a function."""
    constant = helper.make_node("Constant", [], ["c"], value=weight("c", 400, 1))
    branches: dict[str, Any] = {
        f"{which}_branch": body(
            [
                helper.make_node("Constant", [], [f"{which}_k"], value=weight("k", 500, seed)),
                helper.make_node("Add", [f"{which}_w", "w"], [f"{which}_s"]),
            ],
            [f"{which}_s"],
            initializers=[weight(f"{which}_w", 600, seed)],
        )
        for seed, which in enumerate(("then", "else"), 2)
    }
    function = helper.make_function(
        "local",
        "F",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["fk"], value=weight("fk", 300, 4)),
            helper.make_node("Add", ["a", "fk"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    return model_of(
        [
            constant,
            helper.make_node("If", ["cond"], ["i"], **branches),
            helper.make_node("F", ["i"], ["f"], domain="local"),
            helper.make_node("Add", ["f", "c"], ["s"]),
            helper.make_node("Add", ["s", "x"], ["y"]),
        ],
        initializers=[
            weight("w", 600, 5),
            numpy_helper.from_array(np.ones((), bool), "cond"),
            numpy_helper.from_array(np.full((), 2.0, np.float32), "scalar"),
        ],
        functions=[function],
        domains=["local"],
    )


def rich_model() -> onnx.ModelProto:
    """A model that uses every corner of the format that modelopt keeps."""
    model = big_model()
    model.producer_name, model.producer_version, model.domain = "producer", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "doc"
    model.metadata_props.add(key="characters", value="a\nb\tü")
    graph = model.graph
    graph.doc_string = "graph doc"
    graph.metadata_props.add(key="g", value="1")
    graph.node[0].doc_string = "node doc"
    graph.node[0].name = "[red]a/b:c\x1b[0m"
    graph.node[0].metadata_props.add(key="n", value="2")
    graph.node[0].attribute[0].doc_string = "attribute doc"
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "?"
    graph.input[0].doc_string = "input doc"
    graph.value_info.append(info("s", ("batch", 3)))
    graph.initializer[0].doc_string = "tensor doc"
    graph.initializer[0].metadata_props.add(key="t", value="3")
    graph.initializer[2].metadata_props.add(key="small", value="4")
    graph.quantization_annotation.add(tensor_name="w").quant_parameter_tensor_names.add(key="SCALE", value="scalar")
    model.functions[0].doc_string = "function doc"
    model.functions[0].attribute.append("alpha")
    model.functions[0].attribute_proto.append(helper.make_attribute("table", weight("table", 700, 9)))
    tensors = helper.make_attribute("tensors", [weight("t0", 800, 10), weight("t1", 2), weight("t2", 900, 11)])
    model.graph.node.append(
        helper.make_node("Custom", ["x", "", "s"], ["", "unused"], domain="local", s="text", f=1.5, ints=[1, 2])
    )
    model.graph.node[-1].attribute.append(tensors)
    return model
