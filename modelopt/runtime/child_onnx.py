"""The child's calls of onnx and onnxsim on serialized models: ONNX bytes in, ONNX bytes out."""

from __future__ import annotations


def infer_shapes(model: bytes, *, data_prop: bool) -> bytes:
    """Strict shape inference."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=data_prop)
    return bytes(inferred.SerializeToString())


def check(model: bytes) -> bytes:
    """Run onnx's checker; there is nothing to return."""
    import onnx

    onnx.checker.check_model(model)
    return b""


def convert_opset(model: bytes, *, version: int) -> bytes:
    """Run onnx's version converter."""
    import onnx
    import onnx.version_converter

    converted = onnx.version_converter.convert_version(onnx.load_model_from_string(model), version)
    return converted.SerializeToString()


def simplify(model: bytes) -> bytes:
    """Run onnxsim on an in-memory proto; never a path, whose loader skips every check."""
    import onnx
    import onnxsim

    simplified, ok = onnxsim.simplify(onnx.load_model_from_string(model))
    if not ok:
        raise ValueError("onnxsim's own check of its result failed")
    return bytes(simplified.SerializeToString())
