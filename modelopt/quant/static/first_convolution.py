"""First convolutions on few channels, regrouped so that the integer kernel takes four bytes at a time.

onnxruntime's fast integer convolution wants input channels in fours; an image has three, and the general path costs
twice as much. Both rewrites are exact in integers, and leave the output and its scale alone:

- With stride s, blocks of s × s pixels become channels. Output o reads input s·o − p + j, j < k. With l = −p mod s this
  is pixel (l + j) mod s of block o − (p + l)/s + (l + j) div s: a convolution with stride 1 over blocks. It needs sides
  that are known and multiples of s.
- Else a channel of zeros is appended, which weights of zero read.

SpaceToDepth comes before QuantizeLinear: not every release of onnxruntime has it for integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph

_LANES = 4
_BLOCKS = (2, 4)
_MOST_CHANNELS = 64  # of a block: more are read well as they are


@dataclass(frozen=True)
class _FirstConv:
    """A convolution of a quantized float input, as the writer leaves it.

    Attributes:
        conv: The node.
        source: The float activation that is quantized for it.
        quantize: The QuantizeLinear of `source`.
        dequantize: What `conv` reads.
        weight: int8 (out, in, height, width), symmetric, read by `conv` alone.
        array: Its numbers.
    """

    conv: ir.Node
    source: ir.Value
    quantize: ir.Node
    dequantize: ir.Node
    weight: ir.Value
    array: np.ndarray


def regroup(model: ir.Model) -> int:
    """Rewrite the convolutions of `model`, which holds Q/DQ, that gain by it; says how many."""
    names = graph.NameSource(model)
    count = 0
    for node in list(model.graph):
        first = _match(node)
        if first is None or first.array.shape[1] % _LANES == 0:
            continue
        count += _blocks(first, names) or _pad(first, names)
    return count


def _match(conv: ir.Node) -> _FirstConv | None:
    if not graph.is_standard(conv, "Conv") or graph.attribute_int(conv, "group", 1) != 1:
        return None
    dequantize, stored = _producer(conv.inputs[0], "DequantizeLinear"), _producer(conv.inputs[1], "DequantizeLinear")
    if dequantize is None or stored is None or graph.sole_consumer(stored.outputs[0]) is not conv:
        return None
    quantize = _producer(dequantize.inputs[0], "QuantizeLinear")
    weight, array = stored.inputs[0], graph.constant(stored.inputs[0])
    if quantize is None or weight is None or array is None or graph.sole_consumer(weight) is not stored:
        return None
    if array.dtype != np.int8 or array.ndim != 4 or max(array.shape[2:]) == 1 or not _is_symmetric(stored):
        return None
    zero_point, source = graph.constant(quantize.inputs[2]), quantize.inputs[0]
    if (
        source is None
        or zero_point is None
        or zero_point.dtype != np.uint8
        or zero_point.ndim
        or _from_integers(source)
    ):
        return None
    return _FirstConv(conv, source, quantize, dequantize, weight, array)


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    if node is None or len(node.inputs) < 3 or not graph.is_standard(node, op_type):
        return None
    return node


def _is_symmetric(dequantize: ir.Node) -> bool:
    zero_point = graph.constant(dequantize.inputs[2])
    return zero_point is not None and not zero_point.any()


def _from_integers(source: ir.Value) -> bool:
    """Whether an integer kernel makes `source`: a step between would part it from its QuantizeLinear."""
    producer = source.producer()
    reads = () if producer is None else producer.inputs
    return any(_producer(value, "DequantizeLinear") is not None for value in reads)


def taps_of(conv: ir.Node, shape: Sequence[int]) -> int | None:
    """How many taps the window of a float convolution will have when it is regrouped; None when it will not be.

    Args:
        conv: A Conv.
        shape: Its weight's.
    """
    source = conv.inputs[0]
    if source is None or source.producer() is not None or len(shape) != 4 or max(shape[2:]) == 1:
        return None
    if shape[1] % _LANES == 0 or graph.attribute_int(conv, "group", 1) != 1:
        return None
    axes = _axes(conv, shape, source)
    if axes is not None:
        return axes[0].blocks * axes[1].blocks
    return shape[2] * shape[3] if shape[1] % _LANES == _LANES - 1 else None


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution over blocks.

    Attributes:
        stride: Pixels of a block.
        size: Blocks of the input.
        lead: Pixels of zero weight before the window.
        blocks: Blocks that the window takes.
        begin: Blocks of padding before the input.
        end: Blocks of padding behind it.
    """

    stride: int
    size: int
    lead: int
    blocks: int
    begin: int
    end: int


def _axes(conv: ir.Node, shape: Sequence[int], source: ir.Value) -> tuple[_Axis, _Axis] | None:
    """Both axes of the convolution over blocks; None where blocks do not fit."""
    strides = graph.attribute_ints(conv, "strides") or (1, 1)
    pads = graph.attribute_ints(conv, "pads") or (0, 0, 0, 0)
    s, sides = strides[0], tuple(source.shape or ())[2:]
    plain = graph.attribute_string(conv, "auto_pad", "NOTSET") == "NOTSET" and len(set(strides)) == 1
    if not plain or set(graph.attribute_ints(conv, "dilations") or (1,)) != {1}:
        return None
    if s not in _BLOCKS or shape[1] * s * s > _MOST_CHANNELS or min(shape[2:]) < s:
        return None
    known = [side for side in sides if isinstance(side, int) and side > 0 and side % s == 0]
    if len(known) != 2 or len(sides) != 2:
        return None
    rows, columns = (_axis(side, shape[2 + i], s, pads[i], pads[2 + i]) for i, side in enumerate(known))
    return None if rows.end < 0 or columns.end < 0 else (rows, columns)


def _axis(side: int, kernel: int, s: int, begin: int, end: int) -> _Axis:
    lead = -begin % s
    blocks = -(-(lead + kernel) // s)
    outputs = (side + begin + end - kernel) // s + 1
    first = (begin + lead) // s
    return _Axis(s, side // s, lead, blocks, first, outputs + blocks - 1 - first - side // s)


def _blocks(first: _FirstConv, names: graph.NameSource) -> bool:
    """Blocks of stride × stride pixels as channels; says whether it was done."""
    axes = _axes(first.conv, first.array.shape, first.source)
    if axes is None:
        return False
    (outputs, channels, *window), (y, x), s = first.array.shape, axes, axes[0].stride
    wide = np.zeros((outputs, channels, y.blocks * s, x.blocks * s), np.int8)
    wide[:, :, y.lead : y.lead + window[0], x.lead : x.lead + window[1]] = first.array
    blocked = wide.reshape(outputs, channels, y.blocks, s, x.blocks, s).transpose(0, 3, 5, 1, 2, 4)
    graph.set_constant(first.weight, blocked.reshape(outputs, s * s * channels, y.blocks, x.blocks))
    _declare(first)
    batch = None if first.source.shape is None else first.source.shape[0]
    shape = ir.Shape((batch, channels * s * s, y.size, x.size))
    moved = ir.Value(name=names(f"{first.source.name}_blocks"), shape=shape, type=first.source.type)
    node = ir.Node("", "SpaceToDepth", [first.source], [ir.AttrInt64("blocksize", s)], outputs=[moved])
    integers = ir.Value(name=names(f"{moved.name}_quantized"), shape=shape, type=first.quantize.outputs[0].type)
    quantize = ir.Node("", "QuantizeLinear", [moved, *first.quantize.inputs[1:]], outputs=[integers])
    _read_through(first, [node, quantize], integers, names)
    first.conv.attributes.add(ir.AttrInt64s("kernel_shape", [y.blocks, x.blocks]))
    first.conv.attributes.add(ir.AttrInt64s("strides", [1, 1]))
    first.conv.attributes.add(ir.AttrInt64s("pads", [y.begin, x.begin, y.end, x.end]))
    return True


def _pad(first: _FirstConv, names: graph.NameSource) -> bool:
    """One channel more, where that makes them fours; says whether it was done."""
    channels = first.array.shape[1]
    if channels % _LANES != _LANES - 1:
        return False
    scope = first.conv.graph
    integers = first.quantize.outputs[0]
    shape = None if integers.shape is None else ir.Shape((integers.shape[0], channels + 1, *integers.shape[2:]))
    graph.set_constant(first.weight, np.pad(first.array, ((0, 0), (0, 1), (0, 0), (0, 0))))
    _declare(first)
    amounts = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)
    pads = graph.add_initializer(scope, names(f"{integers.name}_channel"), amounts)  # type: ignore[arg-type]
    padded = ir.Value(name=names(f"{integers.name}_padded"), shape=shape, type=integers.type)
    node = ir.Node("", "Pad", [integers, pads, first.quantize.inputs[2]], outputs=[padded])
    _read_through(first, [node], padded, names)
    return True


def _read_through(first: _FirstConv, made: list[ir.Node], integers: ir.Value, names: graph.NameSource) -> None:
    """Let the convolution read `integers`, which the nodes `made` compute; what nobody reads any more goes."""
    old = first.dequantize
    floats = ir.Value(name=names(f"{integers.name}_dequantized"), shape=integers.shape, type=old.outputs[0].type)
    made.append(ir.Node("", "DequantizeLinear", [integers, *old.inputs[1:]], outputs=[floats]))
    for node in made:
        node.name = names(f"{node.outputs[0].name}_{node.op_type}")
    scope = first.conv.graph
    if scope is None:
        raise ValueError("the convolution belongs to no graph")
    scope.insert_before(first.conv, made)
    first.conv.replace_input_with(0, floats)
    if graph.remove_if_dead(old):
        graph.remove_if_dead(first.quantize)


def _declare(first: _FirstConv) -> None:
    """Give the dequantized weight the shape of the weight."""
    read = first.conv.inputs[1]
    if read is not None:
        read.shape = first.weight.shape
