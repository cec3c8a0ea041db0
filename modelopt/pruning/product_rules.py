"""Rules for convolutions and products of matrices: what makes channels, and what sums over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.constant_chains import stored_behind, why_foldable
from modelopt.pruning.dependencies import Dependencies, Labels, Rule
from modelopt.pruning.unproven import Unproven, in_rows, require
from modelopt.pruning.weight_axes import Consumer, Producer

_FEWEST_FILTER_AXES = 3


def convolution(node: ir.Node, found: Dependencies) -> None:
    """Conv and ConvTranspose: W is (C_out, C_in/group, k…), and (C_in, C_out/group, k…) for the transposed one."""
    data, weight = node.inputs[0], node.inputs[1]
    base = stored_behind(weight)
    if base is not None and base[1] == tuple(sorted(base[1])):
        weight = base[0]
    tensor = graph.constant_tensor(weight)
    if data is None or weight is None or tensor is None:
        _refuse_folded(weight)
        raise Unproven("its filters are not constant")
    require(len(tensor.shape) >= _FEWEST_FILTER_AXES)
    transposed = node.op_type == "ConvTranspose"
    group = graph.attribute_int(node, "group", 1)
    axis_in, axis_out = (0, 1) if transposed else (1, 0)
    given = found.axes(data).get(1)
    for axis, labels in found.axes(data).items():
        if axis == 0:
            found.put(node.outputs[0], 0, labels)
        elif axis > 1:
            found.atoms.keep(labels, f"{node.op_type} moves along it")
    if group == 1:
        made = found.of(weight, axis_out)
        if given is not None:
            contract(node, found, Consumer(node, data, 1, weight, axis_in))
    else:
        made = _grouped(node, found, given, (weight, tensor), group, (axis_in, axis_out))
    bias = graph.input_at(node, 2)
    produce(node, found, made, Producer(node, weight, axis_out if group == 1 else 0, bias), axis=1)


def fused_convolution(node: ir.Node, found: Dependencies) -> None:
    """com.microsoft FusedConv: a convolution, a summand Z of the shape of its output, and an activation."""
    convolution(node, found)
    added = graph.input_at(node, 3)
    for axis, labels in dict(found.axes(node.outputs[0])).items() if added is not None else ():
        together = found.unite(labels, found.of(added, axis), "FusedConv adds what cannot shrink")
        found.put(node.outputs[0], axis, np.full_like(labels, FIXED) if together is None else together)
    if added is not None and not found.axes(node.outputs[0]):
        found.keep(added, "FusedConv adds it to what cannot shrink")


def _grouped(
    node: ir.Node,
    found: Dependencies,
    given: Labels | None,
    filters: tuple[ir.Value, ir.TensorProtocol],
    group: int,
    axes: tuple[int, int],
) -> Labels | None:
    """Only whole groups go, each with the channels that it reads and those that it makes."""
    weight, tensor = filters
    transposed = axes == (0, 1)
    first, second = tensor.shape.numpy()[:2]
    require(group > 0 and first % group == 0)
    reads, makes = (first // group, second) if transposed else (second, first // group)
    why = f"{node.op_type} reads channels of one group that cannot shrink"
    if given is None:
        return None  # the channels that it reads stay, and so does each group
    require(len(given) == group * reads)
    stored = found.of(weight, 0)
    whole = np.array([found.atoms.unite_all(part, why) for part in in_rows(given, group)])
    rows = np.repeat(whole, first // group)
    stored = found.unite(stored, rows, why)
    found.edit(whole, lambda kept, _: _set_int(node, "group", kept.count(whole)))
    return np.repeat(whole, makes)


def _set_int(node: ir.Node, name: str, number: int) -> None:
    node.attributes.add(ir.AttrInt64(name, number))


def gemm(node: ir.Node, found: Dependencies) -> None:
    """Y = α · A' · B' + β · C, where ' may transpose; A is (M, K) and B is (K, N)."""
    left, right = node.inputs[0], node.inputs[1]
    left_sum = 0 if graph.attribute_int(node, "transA", 0) else 1
    right_sum = 1 if graph.attribute_int(node, "transB", 0) else 0
    made = _product(node, found, (left, left_sum, 1 - left_sum), (right, right_sum, 1 - right_sum), (0, 1))
    bias = graph.input_at(node, 2)
    if bias is not None and made is not None:
        _add_bias(node, found, bias, made)


def _add_bias(node: ir.Node, found: Dependencies, bias: ir.Value, made: Labels) -> None:
    shape = found.shape(bias)
    if shape and shape[-1] != 1:
        found.unite(made, found.of(bias, len(shape) - 1), f"{node.op_type} adds what cannot shrink")
    for axis in range(len(shape) - 1):
        if shape[axis] != 1:
            found.keep(bias, f"{node.op_type} adds another row for each of its rows", axis)


def matmul(node: ir.Node, found: Dependencies) -> None:
    """Y = A · B over the last two axes; those before are batches, which broadcast. FusedMatMul may transpose."""
    left, right = node.inputs[0], node.inputs[1]
    shapes = [found.shape(value) for value in (left, right)]
    if min(map(len, shapes)) < 2:
        _times_vector(node, found, shapes)
        return
    rank = max(map(len, shapes))
    rows, left_sum = len(shapes[0]) - 2, len(shapes[0]) - 1
    right_sum, columns = len(shapes[1]) - 2, len(shapes[1]) - 1
    if graph.attribute_int(node, "transA", 0):
        rows, left_sum = left_sum, rows
    if graph.attribute_int(node, "transB", 0):
        right_sum, columns = columns, right_sum
    if graph.attribute_int(node, "transBatchA", 0) or graph.attribute_int(node, "transBatchB", 0):
        raise Unproven("it moves the batch of a factor")
    _product(node, found, (left, left_sum, rows), (right, right_sum, columns), (rank - 2, rank - 1))
    for axis in range(rank - 2):
        _batch(node, found, (left, right), shapes, axis, rank)


def _times_vector(node: ir.Node, found: Dependencies, shapes: list[tuple[int, ...]]) -> None:
    """A matrix times a constant vector: its last axis is summed over."""
    left, right = node.inputs[0], node.inputs[1]
    if len(shapes[1]) != 1 or len(shapes[0]) < 2 or graph.constant_tensor(right) is None:
        raise Unproven("its first factor is a vector, or its second is a computed one")
    for axis, labels in found.axes(left).items():
        if axis < len(shapes[0]) - 1:
            found.put(node.outputs[0], axis, labels)
        elif left is not None and right is not None:
            contract(node, found, Consumer(node, left, axis, right, 0))


def _batch(
    node: ir.Node,
    found: Dependencies,
    values: tuple[ir.Value | None, ir.Value | None],
    shapes: list[tuple[int, ...]],
    axis: int,
    rank: int,
) -> None:
    """A batch axis, such as the heads of an attention, which both factors have or one of them."""
    labels: Labels | None = None
    first = True
    for value, shape in zip(values, shapes, strict=True):
        own = axis - rank + len(shape)
        if own < 0 or shape[own] == 1:
            continue
        mine = found.of(value, own)
        labels = mine if first else found.unite(labels, mine, f"{node.op_type} multiplies it by what cannot shrink")
        first = False
    found.put(node.outputs[0], axis, labels)
    if labels is not None and not any(graph.constant_tensor(value) for value in values):
        found.heads.append(labels)


def _product(
    node: ir.Node,
    found: Dependencies,
    left: tuple[ir.Value | None, int, int],
    right: tuple[ir.Value | None, int, int],
    made: tuple[int, int],
) -> Labels | None:
    """One product of matrices: each factor is (value, axis that is summed over, axis that stays).

    Returns:
        The labels of the output's last axis.
    """
    factors = [left, right]
    behind = [stored_behind(value) for value, _, _ in factors]
    constant = [each is not None for each in behind]
    if all(constant):
        raise Unproven("both factors are constant")
    if not any(constant):
        for value, _, _ in factors:
            _refuse_folded(value)
        for value, axis, _ in factors:
            found.keep(value, f"{node.op_type} sums over it in both factors, without weights", axis)
        for (value, _, stays), axis in zip(factors, made, strict=True):
            found.put(node.outputs[0], axis, found.axes(value).get(stays))
        return found.axes(node.outputs[0]).get(made[1])
    stored = constant.index(True)
    data, data_sum, data_stays = factors[1 - stored]
    if data is None or (base := behind[stored]) is None:
        raise Unproven("a factor is missing")
    weight, axes = base
    require(max(factors[stored][1:]) < len(axes))
    weight_sum, weight_stays = (axes[axis] for axis in factors[stored][1:])
    if found.axes(data).get(data_sum) is not None:
        contract(node, found, Consumer(node, data, data_sum, weight, weight_sum))
    found.put(node.outputs[0], made[1 - stored], found.axes(data).get(data_stays))
    labels = found.of(weight, weight_stays)
    produce(node, found, labels, Producer(node, weight, weight_stays), axis=made[stored])
    return found.axes(node.outputs[0]).get(made[1])


def _refuse_folded(value: ir.Value | None) -> None:
    why = why_foldable(value)
    if why is not None:
        raise Unproven(why)


def contract(node: ir.Node, found: Dependencies, consumer: Consumer) -> None:
    """Let the axis that a node sums over and that of its weights shrink together.

    Raises:
        Unproven: The weights cannot.
    """
    labels = found.axes(consumer.data)[consumer.data_axis]
    weights = found.of(consumer.weight, consumer.weight_axis)
    if weights is None:
        raise Unproven("its weights cannot shrink")
    found.unite(labels, weights, f"{node.op_type} sums over it with what cannot shrink")
    found.consumers.append(consumer)


def produce(node: ir.Node, found: Dependencies, labels: Labels | None, producer: Producer, axis: int) -> None:
    """Let an axis of the first output have the labels of the weights that make it, and of their bias."""
    if labels is None:
        return
    if producer.bias is not None:
        together = found.unite(labels, found.of(producer.bias, 0), f"{node.op_type} adds what cannot shrink")
        labels = np.full_like(labels, FIXED) if together is None else together
    found.put(node.outputs[0], axis, labels)
    found.producers.append(producer)


RULES: Mapping[tuple[str, str], Rule] = {
    ("", "Conv"): convolution,
    ("", "ConvTranspose"): convolution,
    ("", "Gemm"): gemm,
    ("", "MatMul"): matmul,
    (graph.CONTRIB_DOMAIN, "FusedMatMul"): matmul,
    (graph.CONTRIB_DOMAIN, "FusedGemm"): gemm,
    (graph.CONTRIB_DOMAIN, "FusedConv"): fused_convolution,
}
