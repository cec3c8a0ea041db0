"""One node as tests of constant evaluation need it: on onnxruntime, and by the kernels of consteval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import consteval
from tests.runtime_tools import session

I64 = np.int64
F32 = np.float32
Array = np.ndarray


def a(values: Any, dtype: Any = F32) -> Array:
    return np.array(values, dtype)


def make_node(op: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any], outputs: int = 1) -> ir.Node:
    values = [None if array is None else ir.Value(name=f"in{i}") for i, array in enumerate(inputs)]
    named = [ir.Value(name=f"out{i}") for i in range(outputs)]
    return ir.node(op, values, attributes, outputs=named)


def run_ort(
    op: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any], opset: int, outputs: int
) -> list[Array]:
    names = [f"in{i}" if array is not None else "" for i, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = [f"out{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **{k: _proto(v) for k, v in attributes.items()})
    scope = onnx.helper.make_graph(
        [node],
        "g",
        [
            onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
    )
    model = onnx.helper.make_model(scope, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return [np.asarray(x) for x in session(model.SerializeToString()).run(results, given)]


def _proto(value: Any) -> Any:
    return onnx.numpy_helper.from_array(value.numpy()) if isinstance(value, ir.TensorProtocol) else value


def evaluate(
    op: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any] | None = None,
    opset: int = 20,
    outputs: int = 1,
) -> list[Array]:
    found = consteval.evaluate(make_node(op, inputs, attributes or {}, outputs), inputs, opset)
    assert found is not None
    return found


X = a([[-2.5, -0.5, 0.0, 0.5], [1.0, 1.5, 2.5, 3.0]])
CUBE = np.arange(24, dtype=F32).reshape(2, 3, 4)
