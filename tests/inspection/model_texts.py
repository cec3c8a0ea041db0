"""Models as text, and their weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.numpy_helper

from modelopt.inspection.data import Inspection

Inspect = Callable[..., Inspection]
"""Inspects a model: the fixture `look`."""


def parse(body: str, *, opset: int = 17, extra: str = "", functions: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{extra}]> {body} {functions}')


def weights(model: onnx.ModelProto, *, dtype: str = "float32", **shapes: tuple[int, ...]) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        array = np.asarray(generator.standard_normal(shape)).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def linear(*, opset: int = 17, dtype: str = "float32") -> onnx.ModelProto:
    kind = dtype.removesuffix("32")
    model = parse(f"g ({kind}[N,4] x) => ({kind}[N,3] y) {{ y = MatMul(x, W) }}", opset=opset)
    return weights(model, dtype=dtype, W=(4, 3))


def codes(found: Inspection) -> dict[str, str]:
    return {blocker.code: blocker.severity for blocker in found.blockers}
