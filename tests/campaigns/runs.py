"""onnxruntime and onnx's checker in this process, on bytes: campaigns run in children of their own (see `pool`)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime as ort

from modelopt.measure.tolerance import OutputMismatch, compare_outputs

Feeds = Mapping[str, Any]

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_FOREIGN = ("bfloat", "float8", "float4", "int4", "uint4", "int2", "uint2")


def accepts(content: bytes) -> bool:
    """Whether onnx's checker takes the model."""
    try:
        onnx.checker.check_model(content)
    except Exception:  # noqa: BLE001 - it raises many kinds
        return False
    return True


def open_session(content: bytes, *, fuse: bool = True) -> ort.InferenceSession:
    """A session as users open it, on one thread; or one that runs the model as it is."""
    options = ort.SessionOptions()
    if not fuse:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def session_run(session: ort.InferenceSession, feeds: Feeds) -> list[Any]:
    """Run once; types that numpy lacks go in as OrtValues and come out as bytes."""
    kinds = [value.type for value in session.get_outputs()]
    foreign_out = any(kind.startswith("tensor(") and kind[7:-1].startswith(_FOREIGN) for kind in kinds)
    if not foreign_out and not any(isinstance(value, np.ndarray) and _is_foreign(value) for value in feeds.values()):
        outputs: list[Any] = session.run(None, dict(feeds))
        return outputs
    values = {name: _ort_value(value) for name, value in feeds.items()}
    names = [output.name for output in session.get_outputs()]
    return [_array(value) for value in session.run_with_ort_values(names, values)]


def _array(value: ort.OrtValue) -> np.ndarray:
    if not value.data_type()[7:-1].startswith(_FOREIGN):
        array: np.ndarray = value.numpy()
        return array
    return np.frombuffer(ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes()), np.uint8)


def _is_foreign(array: np.ndarray) -> bool:
    return array.dtype.kind == "V" or array.dtype.name.startswith(_FOREIGN)


def _ort_value(array: np.ndarray) -> ort.OrtValue:
    if not _is_foreign(array):
        return ort.OrtValue.ortvalue_from_numpy(array)
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)


def compare(before: Sequence[Any], after: Sequence[Any], names: Sequence[str]) -> OutputMismatch | float:
    """`compare_outputs` for outputs that may be sequences or absent."""
    left, left_names = _flat(before, names)
    right, right_names = _flat(after, names)
    if left_names != right_names:
        return OutputMismatch(output=", ".join(names), reason="sequences or optionals differ in their structure")
    return compare_outputs(left, right, left_names)


def _flat(outputs: Sequence[Any], names: Sequence[str]) -> tuple[list[np.ndarray], list[str]]:
    arrays, found = [], []
    for output, name in zip(outputs, names, strict=True):
        if isinstance(output, list):
            inner, inner_names = _flat(output, [f"{name}[{i}]" for i in range(len(output))])
            arrays += inner
            found += [f"{name}: {len(output)}", *inner_names][1:] if output else []
            continue
        arrays.append(np.zeros(0) if output is None else np.asarray(output))
        found.append(f"{name}: absent" if output is None else name)
    return arrays, found


def is_random(content: bytes) -> bool:
    """Whether some node draws random numbers."""
    proto = onnx.ModelProto.FromString(content)
    return any(_draws(node) for node in _nodes(proto))


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                pending += body.node


def _draws(node: onnx.NodeProto) -> bool:
    training_dropout = node.op_type == "Dropout" and len(node.input) > 2
    return node.op_type in _RANDOM or training_dropout


def first_line(error: BaseException) -> str:
    """The first line of an error that is not empty, without numbers that differ between runs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]
