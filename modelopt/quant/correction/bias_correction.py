"""Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Rounding a weight to integers, and clipping an activation, moves the mean of each output channel. The shift is measured
on data and taken off the bias. Each integer kernel is measured beside the float one *on the same float activations*:

    shift_c = E[kernel(x)_c - integer kernel(Q(x))_c]

So one run over the samples measures all kernels, and none answers for the shift of those before it, which their own
corrections take away: measured in the quantized model, a shift would be corrected once by each layer that it passes.
E is the mean over the positions of a sample without outliers. A transformer has single tokens with activations a
thousand times as large as the others'; clipping those moves the plain mean far from the shift of every other token. The
means are taken inside the model: what comes back is one number per channel, whatever the samples' number and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Skip
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.kernel_pairs import Kernel, dequantizer, weight_shape
from modelopt.quant.numerics import scheme

SAMPLES = 32
"""How many samples are run, at most."""

_POSITIONS = 1024
"""From how many positions of a sample on only every second, third … counts: sorting more would take long."""

_QUARTERS = 4

_OUTLIER = 3.0
"""How many interquartile ranges from the median a value is an outlier: 4 standard deviations of a normal one."""

_LEAST_FOR_VARIANCE = 4

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Corrected:
    """What `correct` did.

    Attributes:
        kernels: How many kernels have another bias now.
        skipped: Those that keep theirs, with the reason.
    """

    kernels: int
    skipped: tuple[Skip, ...]


def correct(
    reference: ir.Model, model: ir.Model, kernels: Sequence[Kernel], ctx: Context, *, integer_bias: bool
) -> Corrected:
    """Measure the shift of each kernel on the calibration samples and take it off the bias.

    Args:
        reference: The float model; it is used up.
        model: The quantized model, changed in place.
        kernels: Where.
        ctx: Lends the runner, the samples and the progress.
        integer_bias: Store a bias that was not there in int32.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    bench = _Bench(reference)
    shifts: dict[Kernel, str] = {}
    skipped: list[Skip] = []
    for kernel in kernels:
        reason = _why_not(kernel)
        if reason is None and kernel.float is not None:
            shifts[kernel] = bench.add(kernel, kernel.float)
        else:
            skipped.append(Skip(graph.label(kernel.integer), f"its bias is not corrected: {reason}"))
    found = _shifts(reference, list(shifts.values()), ctx)
    names = graph.NameSource(model)
    done = 0
    for kernel, name in shifts.items():
        problem = _take_off(kernel.integer, found[name], names, integer_bias=integer_bias)
        done += problem is None
        if problem is not None:
            skipped.append(Skip(graph.label(kernel.integer), f"its bias is not corrected: {problem}"))
    return Corrected(done, tuple(skipped))


def _why_not(kernel: Kernel) -> str | None:
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
    columns = _columns(node)
    if bias is None or bias.dtype != ir.DataType.FLOAT or bias.size != columns or bias.shape[-1] != columns:
        return None
    return add, index


def _columns(product: ir.Node) -> int:
    shape = weight_shape(product)
    return shape[-2] if graph.attribute_int(product, "transB", 0) else shape[-1]


class _Bench:
    """Puts integer kernels beside the float ones of a model, each on the float kernel's own input."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = graph.NameSource(model)
        self._constants: dict[ir.Value, ir.Value] = {}

    def add(self, kernel: Kernel, twin: ir.Node) -> str:
        """Compute the mean of ``float - integer`` per channel; returns the name of that value, float32 (C,)."""
        stem = f"{twin.outputs[0].name}_shift"
        inputs = [
            self._activation(kernel.integer, twin),
            *(self._constant(value) for value in kernel.integer.inputs[1:]),
        ]
        integer = self._node(twin.op_type, inputs, f"{stem}_integer", tuple(twin.attributes.values()))
        difference = self._node("Sub", [twin.outputs[0], integer], f"{stem}_difference")
        columns = _columns(kernel.integer)
        if twin.op_type == "Conv":
            shape = weight_shape(kernel.integer)
            columns, order = shape[0], [0, *range(2, len(shape)), 1]
            difference = self._node("Transpose", [difference], f"{stem}_last", [ir.AttrInt64s("perm", order)])
        rows = self._node("Reshape", [difference, self._stored(np.array([-1, columns]), stem)], f"{stem}_rows")
        return self._mean(rows, stem)

    def _mean(self, rows: ir.Value, stem: str) -> str:
        """What `mean` computes, inside the model and for each column, from some of the rows where there are many."""
        zero, one, positions, two, quarters = (
            self._stored(np.array([number]), stem) for number in (0, 1, _POSITIONS, 2, _QUARTERS)
        )
        size = self._rows(rows, stem)
        step = self._node("Add", [self._node("Div", [size, positions], f"{stem}_skipped"), one], f"{stem}_step")
        some = self._node("Slice", [rows, zero, size, zero, step], f"{stem}_some")
        size = self._rows(some, stem)
        ordered = self._node("TopK", [some, size], f"{stem}_ordered", [ir.AttrInt64("axis", 0)], outputs=2)
        first = self._node("Div", [size, quarters], f"{stem}_first")
        last = self._node("Sub", [self._node("Sub", [size, one], f"{stem}_end"), first], f"{stem}_last")
        half = self._node("Div", [size, two], f"{stem}_half")
        high, median, low = (self._node("Gather", [ordered, at], f"{stem}_rank") for at in (first, half, last))
        spread = self._node("Sub", [high, low], f"{stem}_spread")
        most = self._node("Mul", [spread, self._stored(np.array([_OUTLIER], np.float32), stem)], f"{stem}_most")
        distance = self._node("Abs", [self._node("Sub", [some, median], f"{stem}_from_median")], f"{stem}_distance")
        outlier = self._node("Greater", [distance, most], f"{stem}_outlier")
        to_float = [ir.AttrInt64("to", ir.DataType.FLOAT)]
        kept = self._node("Cast", [self._node("Not", [outlier], f"{stem}_kept")], f"{stem}_weight", to_float)
        total = self._mean_of_rows(self._node("Mul", [some, kept], f"{stem}_product"), zero, f"{stem}_total")
        mean = self._node("Div", [total, self._mean_of_rows(kept, zero, f"{stem}_share")], stem)
        return mean.name or ""

    def _mean_of_rows(self, rows: ir.Value, zero: ir.Value, stem: str) -> ir.Value:
        inputs, attributes = [rows], [ir.AttrInt64("keepdims", 0)]
        if graph.opset(self._model) < 18:
            attributes.append(ir.AttrInt64s("axes", [0]))
        else:
            inputs.append(zero)
        return self._node("ReduceMean", inputs, stem, attributes)

    def _rows(self, matrix: ir.Value, stem: str) -> ir.Value:
        """How many rows a matrix has, int64 of shape (1,)."""
        shape = self._node("Shape", [matrix], f"{stem}_shape")
        first = self._stored(np.array([0]), stem)
        return self._node("Gather", [shape, first], f"{stem}_size")

    def _activation(self, integer: ir.Node, twin: ir.Node) -> ir.Value:
        """The float kernel's input, quantized as the integer kernel's is."""
        reader = dequantizer(integer.inputs[0])
        if reader is None:
            raise ValueError("the kernel was not accepted")
        parameters = [self._constant(value) for value in reader.inputs[1:]]
        stem = f"{twin.outputs[0].name}_input"
        quantized = self._node("QuantizeLinear", [twin.inputs[0], *parameters], f"{stem}_quantized")
        return self._node("DequantizeLinear", [quantized, *parameters], f"{stem}_dequantized")

    def _constant(self, value: ir.Value | None) -> ir.Value | None:
        """A copy of a constant of the quantized model, or of the DequantizeLinear of one."""
        if value is None:
            return None
        if value in self._constants:
            return self._constants[value]
        reader = dequantizer(value)
        if reader is not None:
            stored = [self._constant(read) for read in reader.inputs]
            attributes = tuple(reader.attributes.values())
            copy = self._node("DequantizeLinear", stored, f"{value.name}_shift", attributes)
        else:
            array = graph.constant(value)
            if array is None:
                raise ValueError("the kernel was not accepted")
            copy = self._stored(array, f"{value.name}")
        self._constants[value] = copy
        return copy

    def _stored(self, array: np.ndarray, stem: str) -> ir.Value:
        return graph.add_initializer(self._model.graph, self._names(f"{stem}_constant"), array)

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        stem: str,
        attributes: Sequence[ir.Attr] = (),
        *,
        outputs: int = 1,
    ) -> ir.Value:
        """Append a node; returns its first output."""
        made = [ir.Value(name=self._names(stem)) for _ in range(outputs)]
        self._model.graph.append(ir.Node("", op_type, inputs, attributes, outputs=made, name=made[0].name))
        return made[0]


def _shifts(model: ir.Model, names: list[str], ctx: Context) -> Mapping[str, np.ndarray]:
    """The mean over the samples of each value, float64, shrunk by what chance has in it.

    A mean of n samples has an error of its own, variance / n, which would be added to every later output. What is left
    of a shift is shift · max(0, 1 - error / shift²), the positive part of James and Stein's estimator for one number.
    """
    if not names:
        return {}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for arrays in ctx.runner.run(model, kernel_pairs.feeds(ctx, SAMPLES, "correcting biases"), outputs=names):
        for name, array in zip(names, arrays, strict=True):
            found[name].append(array.astype(np.float64))
    return {name: shrunk(np.stack(means)) for name, means in found.items()}


def shrunk(means: np.ndarray) -> np.ndarray:
    """Means over all samples, shrunk as `correct` does it.

    Args:
        means: Of each of n samples and C channels, shape (n, C); below 4 samples nothing is known of chance.
    """
    count = len(means)
    if count < _LEAST_FOR_VARIANCE:
        return np.asarray(means.mean(axis=0))
    typical = mean(means)
    error = np.square(means - typical).mean(axis=0) / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(typical == 0, 0.0, 1 - error / (typical * typical))
    return np.asarray(typical * np.maximum(kept, 0))


def mean(rows: np.ndarray) -> np.ndarray:
    """The mean of each column, shape (C,), of rows (n, C), n > 0, without its outliers.

    A value counts unless it is further from the median than three times the distance between the quartiles.
    """
    ordered = np.sort(rows, axis=0)[::-1]
    count = len(ordered)
    first = count // _QUARTERS
    high, median, low = (ordered[rank] for rank in (first, count // 2, count - 1 - first))
    kept = np.abs(rows - median) <= _OUTLIER * (high - low)
    return np.asarray((rows * kept).sum(axis=0) / kept.sum(axis=0))


def _take_off(node: ir.Node, shift: np.ndarray, names: graph.NameSource, *, integer_bias: bool) -> str | None:
    """Add `shift`, float64 of shape (C,), to the bias of `node`; says why not when that cannot be."""
    if not np.isfinite(shift).all():
        return "the shift is NaN or infinite"
    behind = _bias_behind(node) if node.op_type == "MatMul" else None
    if behind is not None:
        return _add_float(*behind, shift, names)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return _add_bias(node, shift, names, integer_bias=integer_bias)
    reader = dequantizer(bias)
    return _add_float(node, 2, shift, names) if reader is None else _add_integer(reader, shift)


def _add_float(node: ir.Node, index: int, shift: np.ndarray, names: graph.NameSource) -> str | None:
    value = node.inputs[index]
    old = graph.constant(value)
    if value is None or old is None:
        return "its bias is not a constant"
    new = (old.astype(np.float64) + shift.reshape(old.shape)).astype(old.dtype)
    node.replace_input_with(index, graph.constant_beside(value, node, names(f"{value.name}_corrected"), new))
    graph.drop_unused_constants([value])
    return None


def _add_integer(reader: ir.Node, shift: np.ndarray) -> str | None:
    """Move a bias in int32, which no other node reads."""
    stored, scale = reader.inputs[0], graph.constant(reader.inputs[1])
    old = graph.constant(stored)
    if stored is None or scale is None or old is None or len(stored.uses()) != 1:
        return "other nodes use its bias too"
    new = old.astype(np.float64) + np.rint(shift / scale.astype(np.float64))
    if new.max(initial=0) > _INT32.max or new.min(initial=0) < _INT32.min:
        return "it would overflow int32"
    graph.set_constant(stored, new.astype(np.int32))
    return None


def _add_bias(node: ir.Node, shift: np.ndarray, names: graph.NameSource, *, integer_bias: bool) -> str | None:
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
    stem = f"{node.inputs[1].name}_bias"  # type: ignore[union-attr]
    node.resize_inputs(3)
    if not integer_bias:
        node.replace_input_with(2, graph.add_initializer(body, names(stem), shift.astype(np.float32)))
        return None
    params = scheme.QParams(scales[1], np.zeros(scales[1].shape, np.int8), scheme.WEIGHTS)
    params = scheme.bias_params(params, scales[0])
    arrays = scheme.quantize(shift, params), params.scale, params.zero_point
    inputs = [
        graph.add_initializer(body, names(f"{stem}{part}"), array)
        for part, array in zip(("_quantized", "_scale", "_zero_point"), arrays, strict=True)
    ]
    floats = ir.Value(
        name=names(f"{stem}_dequantized"), shape=ir.Shape(shift.shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    attributes = [] if params.axis is None else [ir.AttrInt64("axis", 0)]
    body.insert_before(node, [ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[floats], name=floats.name)])
    node.replace_input_with(2, floats)
    return None
