"""Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Rounding a weight to integers, and clipping an activation, moves the mean of each output channel. The shift is measured
on data (see `output_shift`), and the bias makes up for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Skip
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.kernel_pairs import KernelPair, dequantizer, output_channels
from modelopt.quant.correction.output_shift import ShiftModel
from modelopt.quant.numerics import scheme

_INT32 = np.iinfo(np.int32)


def correct(
    reference: ir.Model, model: ir.Model, kernels: Sequence[KernelPair], ctx: Context, *, integer_bias: bool
) -> Changes:
    """Measure the shift of each kernel on the calibration samples and add it to the bias: a rewrite for each kernel.

    Args:
        reference: The float model; measuring changes it.
        model: The quantized model, changed in place.
        kernels: The kernels to correct.
        ctx: Lends the runner, the samples and the progress.
        integer_bias: Store new biases in int32, not in float32.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    measured = ShiftModel(reference)
    skipped: list[Skip] = []
    for kernel in kernels:
        reason = _why_not(kernel)
        if reason is None and kernel.float is not None:
            measured.add(kernel, kernel.float)
        else:
            skipped.append(Skip(graph.label(kernel.integer), f"its bias is not corrected: {reason}"))
    names = graph.NameSource(model)
    done = 0
    for kernel, shift in measured.shifts(ctx).items():
        problem = _add_to_bias(kernel.integer, shift, names, integer_bias=integer_bias)
        done += problem is None
        if problem is not None:
            skipped.append(Skip(graph.label(kernel.integer), f"its bias is not corrected: {problem}"))
    return Changes(done, tuple(skipped))


def _why_not(kernel: KernelPair) -> str | None:
    node = kernel.integer
    reason = kernel_pairs.why_not(kernel)
    return "it has none" if reason is None and node.op_type == "MatMul" and _bias_behind(node) is None else reason


def _bias_behind(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add behind a MatMul that holds its bias, and which of its inputs that is."""
    add = graph.sole_consumer(node.outputs[0])
    if add is None or not graph.is_standard(add, "Add"):
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    bias = graph.constant_tensor(add.inputs[index])
    columns = output_channels(node)
    if bias is None or bias.dtype != ir.DataType.FLOAT or bias.size != columns or bias.shape[-1] != columns:
        return None
    return add, index


def _add_to_bias(node: ir.Node, shift: np.ndarray, names: graph.NameSource, *, integer_bias: bool) -> str | None:
    """Add `shift`, float64 of shape (C,), to the bias of `node`; says why not when that cannot be."""
    if not np.isfinite(shift).all():
        return "the shift is NaN or infinite"
    behind = _bias_behind(node) if node.op_type == "MatMul" else None
    if behind is not None:
        return _add_float(*behind, shift, names)
    bias = graph.input_at(node, 2)
    if bias is None:
        return _make_bias(node, shift, names, integer_bias=integer_bias)
    dequantize = dequantizer(bias)
    return _add_float(node, 2, shift, names) if dequantize is None else _add_integer(dequantize, shift)


def _add_float(node: ir.Node, index: int, shift: np.ndarray, names: graph.NameSource) -> str | None:
    value = node.inputs[index]
    old = graph.constant(value)
    if value is None or old is None:
        return "its bias is not a constant"
    new = (old.astype(np.float64) + shift.reshape(old.shape)).astype(old.dtype)
    node.replace_input_with(index, graph.constant_beside(value, node, names(f"{value.name}_corrected"), new))
    graph.drop_unused_constants([value])
    return None


def _add_integer(dequantize: ir.Node, shift: np.ndarray) -> str | None:
    """Change a bias in int32, which no other node reads."""
    stored, scale = dequantize.inputs[0], graph.constant(dequantize.inputs[1])
    old = graph.constant(stored)
    if stored is None or scale is None or old is None or len(stored.uses()) != 1:
        return "other nodes use its bias too"
    new = old.astype(np.float64) + np.rint(shift / scale.astype(np.float64))
    if new.max(initial=0) > _INT32.max or new.min(initial=0) < _INT32.min:
        return "it would overflow int32"
    graph.set_constant(stored, new.astype(np.int32))
    return None


def _make_bias(node: ir.Node, shift: np.ndarray, names: graph.NameSource, *, integer_bias: bool) -> str | None:
    """Give `node` a bias."""
    scales = [None if source is None else graph.constant(source.inputs[1]) for source in map(dequantizer, node.inputs)]
    body = node.graph
    if (
        scales[0] is None
        or scales[1] is None
        or not isinstance(body, ir.Graph)
        or scales[1].size not in {1, shift.size}
    ):
        return "it has none"
    prefix = f"{node.inputs[1].name}_bias"  # type: ignore[union-attr]
    node.resize_inputs(3)
    if not integer_bias:
        node.replace_input_with(2, graph.add_initializer(body, names(prefix), shift.astype(np.float32)))
        return None
    params = scheme.QParams(scales[1], np.zeros(scales[1].shape, np.int8), scheme.WEIGHTS)
    params = scheme.bias_params(params, scales[0])
    arrays = scheme.quantize(shift, params), params.scale, params.zero_point
    inputs = [
        graph.add_initializer(body, names(f"{prefix}{part}"), array)
        for part, array in zip(("_quantized", "_scale", "_zero_point"), arrays, strict=True)
    ]
    floats = ir.Value(
        name=names(f"{prefix}_dequantized"), shape=ir.Shape(shift.shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    attributes = [] if params.axis is None else [ir.AttrInt64("axis", 0)]
    body.insert_before(node, [ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[floats], name=floats.name)])
    node.replace_input_with(2, floats)
    return None
