"""The mean error of each output channel of an integer kernel, measured on calibration samples.

The integer kernel is computed beside the float kernel, on the same float activation x:

    shift_c = E[kernel(x)_c - integer kernel(Q(x))_c]

Both are nodes of the float model, so one run over the samples measures all kernels. Measuring in the quantized model
instead would count one shift several times: every later layer would see it, and every layer would correct it.

E is the mean over the positions of a sample without outliers. A transformer has single tokens with activations a
thousand times as large as the others'. Clipping those moves the plain mean far from the shift of every other token. The
means are computed inside the model: what comes back is one number per channel, whatever the samples' number and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.kernel_pairs import KernelPair, dequantizer, output_channels, weight_shape

SAMPLES = 32
"""How many samples are run, at most."""

_POSITIONS = 1024
"""With more positions in a sample, only every second, third … counts: sorting more would take long."""

_QUARTERS = 4

_OUTLIER = 3.0
"""How many interquartile ranges from the median a value is an outlier: 4 standard deviations of a normal one."""

_LEAST_FOR_VARIANCE = 4


class ShiftModel:
    """Adds integer kernels to the float model, each beside its float kernel and on that kernel's own input.

    Args:
        model: The float model, changed in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._names = graph.NameSource(model)
        self._constants: dict[ir.Value, ir.Value] = {}
        self._means: dict[KernelPair, str] = {}

    def add(self, kernel: KernelPair, float_node: ir.Node) -> None:
        """Compute the mean of ``float - integer`` of one kernel, float32 of shape (C,).

        Args:
            kernel: A kernel for which `kernel_pairs.why_not` is None.
            float_node: Its node in the float model.
        """
        operands = [self._activation(kernel.integer, float_node), *map(self._copy, kernel.integer.inputs[1:])]
        integer = self._node(float_node.op_type, *operands, attributes=tuple(float_node.attributes.values()))
        difference = self._node("Sub", float_node.outputs[0], integer)
        channels = output_channels(kernel.integer)
        if float_node.op_type == "Conv":  # channels go last, so that a row is a position
            order = [0, *range(2, len(weight_shape(kernel.integer))), 1]
            difference = self._node("Transpose", difference, attributes=[ir.AttrInt64s("perm", order)])
        rows = self._node("Reshape", difference, self._stored([-1, channels]))
        self._means[kernel] = self._mean(rows).name or ""

    def shifts(self, ctx: Context) -> Mapping[KernelPair, np.ndarray]:
        """The shift of each kernel over the calibration samples, float64 of shape (C,); see `shrunk`.

        Raises:
            Refused: onnxruntime does not run the model.
        """
        if not self._means:
            return {}
        found: dict[KernelPair, list[np.ndarray]] = {kernel: [] for kernel in self._means}
        feeds = kernel_pairs.feeds(ctx, SAMPLES, "correcting biases")
        for arrays in ctx.runner.run(self._model, feeds, outputs=list(self._means.values())):
            for kernel, array in zip(found, arrays, strict=True):
                found[kernel].append(array.astype(np.float64))
        return {kernel: shrunk(np.stack(means)) for kernel, means in found.items()}

    def _mean(self, rows: ir.Value) -> ir.Value:
        """What `mean` computes, as nodes; where there are many rows, from every second, third … of them."""
        zero, one = self._stored([0]), self._stored([1])
        size = self._row_count(rows)
        step = self._node("Add", self._node("Div", size, self._stored([_POSITIONS])), one)
        rows = self._node("Slice", rows, zero, size, zero, step)
        size = self._row_count(rows)
        # The median and the quartiles, from the rows in descending order.
        ordered = self._node("TopK", rows, size, attributes=[ir.AttrInt64("axis", 0)], outputs=2)
        first = self._node("Div", size, self._stored([_QUARTERS]))
        last = self._node("Sub", self._node("Sub", size, one), first)
        half = self._node("Div", size, self._stored([2]))
        high, median, low = (self._node("Gather", ordered, rank) for rank in (first, half, last))
        # 1 for a value that counts and 0 for an outlier; the mean is that of the values times this, over its own mean.
        limit = self._node("Mul", self._node("Sub", high, low), self._stored(np.array([_OUTLIER], np.float32)))
        distance = self._node("Abs", self._node("Sub", rows, median))
        kept = self._node("Not", self._node("Greater", distance, limit))
        kept = self._node("Cast", kept, attributes=[ir.AttrInt64("to", ir.DataType.FLOAT)])
        total = self._mean_of_rows(self._node("Mul", rows, kept), zero)
        return self._node("Div", total, self._mean_of_rows(kept, zero))

    def _mean_of_rows(self, rows: ir.Value, zero: ir.Value) -> ir.Value:
        attributes: list[ir.Attr] = [ir.AttrInt64("keepdims", 0)]
        if graph.opset(self._model) < 18:  # the axes are an input from opset 18 on
            return self._node("ReduceMean", rows, attributes=[*attributes, ir.AttrInt64s("axes", [0])])
        return self._node("ReduceMean", rows, zero, attributes=attributes)

    def _row_count(self, matrix: ir.Value) -> ir.Value:
        """How many rows a matrix has, int64 of shape (1,)."""
        return self._node("Gather", self._node("Shape", matrix), self._stored([0]))

    def _activation(self, integer: ir.Node, float_node: ir.Node) -> ir.Value:
        """The float kernel's input, quantized as the integer kernel's is."""
        dequantize = dequantizer(integer.inputs[0])
        if dequantize is None:
            raise ValueError("the kernel was not accepted")
        params = [self._copy(value) for value in dequantize.inputs[1:]]
        return self._node("DequantizeLinear", self._node("QuantizeLinear", float_node.inputs[0], *params), *params)

    def _copy(self, value: ir.Value | None) -> ir.Value | None:
        """A copy of a constant of the quantized model, or of the DequantizeLinear of one."""
        if value is None:
            return None
        if value not in self._constants:
            dequantize, array = dequantizer(value), graph.constant(value)
            if dequantize is not None:
                read = map(self._copy, dequantize.inputs)
                attributes = tuple(dequantize.attributes.values())
                self._constants[value] = self._node("DequantizeLinear", *read, attributes=attributes)
            elif array is not None:
                self._constants[value] = self._stored(array)
            else:
                raise ValueError("the kernel was not accepted")
        return self._constants[value]

    def _stored(self, numbers: np.ndarray | list[int]) -> ir.Value:
        return graph.add_initializer(self._model.graph, self._names("shift_constant"), np.asarray(numbers))

    def _node(
        self, op_type: str, *inputs: ir.Value | None, attributes: Sequence[ir.Attr] = (), outputs: int = 1
    ) -> ir.Value:
        """Append a node; returns its first output."""
        made = [ir.Value(name=self._names("shift")) for _ in range(outputs)]
        self._model.graph.append(ir.Node("", op_type, inputs, attributes, outputs=made, name=made[0].name))
        return made[0]


def shrunk(means: np.ndarray) -> np.ndarray:
    """The mean over all samples, made smaller by the part of it that chance explains.

    A mean of n samples has an error of its own, variance / n, which a corrected bias would add to every later output.
    What is left of a shift is shift · max(0, 1 - error / shift²): the positive part of James and Stein's estimator for
    one number.

    Args:
        means: Of each of n samples and C channels, shape (n, C). With fewer than 4 samples the variance is not known,
            and the plain mean is returned.
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
