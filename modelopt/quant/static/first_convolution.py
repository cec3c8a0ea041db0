"""The first convolution, which reads an image: its input gets a multiple of four channels.

onnxruntime's fast integer convolution needs a multiple of four input channels. An image has three, and the general
kernel takes twice as long. Both rewrites are exact in integers, and keep the output and its scale:

- Space to depth: with stride s, each block of s × s pixels becomes one pixel with s · s times as many channels, and the
  convolution has stride 1 over blocks. It needs sides that are known and multiples of s.
- Else a channel of zeros is appended, with weights of zero.

SpaceToDepth comes before QuantizeLinear: not every release of onnxruntime has it for integers.

The arithmetic of space to depth, for one axis with kernel size k, stride s and p pixels of padding before it: output o
reads the pixels s·o - p + j with 0 ≤ j < k. A convolution with stride 1 over blocks has to start at a block. So the
kernel gets l = -p mod s zeros before it, and p + l = s·f is a whole number f of blocks. Then pixel s·o - p + j is

    s·(o - f) + (l + j)  =  pixel (l + j) mod s of block o - f + (l + j) div s

The window over blocks begins f blocks before the input and takes ceil((l + k) / s) blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match

_MULTIPLE = 4  # of input channels, for the fast kernel
_BLOCK_SIZES = (2, 4)
_MOST_CHANNELS = 64  # of a block; a larger first convolution is fast enough without the rewrite (a guess)


@dataclass(frozen=True)
class _FirstConv:
    """A convolution of an activation that is quantized from float, as the Q/DQ writer leaves it.

    Attributes:
        conv: The Conv.
        source: The float activation that is quantized for it.
        quantize: The QuantizeLinear of `source`.
        dequantize: The DequantizeLinear that `conv` reads.
        weight: int8 (out, in, height, width), symmetric, read by `conv` alone.
        array: The numbers of `weight`.
    """

    conv: ir.Node
    source: ir.Value
    quantize: ir.Node
    dequantize: ir.Node
    weight: ir.Value
    array: np.ndarray


def regroup(model: ir.Model) -> int:
    """Rewrite the first convolutions of `model`, which holds Q/DQ; returns how many."""
    names = graph.NameSource(model)
    count = 0
    for node in list(model.graph):
        first = _match(node)
        if first is None or first.array.shape[1] % _MULTIPLE == 0:
            continue
        count += _space_to_depth(first, names) or _append_channel(first, names)
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
    node = match.producer(value, op_type)
    return None if node is None or len(node.inputs) < 3 else node


def _is_symmetric(dequantize: ir.Node) -> bool:
    zero_point = graph.constant(dequantize.inputs[2])
    return zero_point is not None and not zero_point.any()


def _from_integers(source: ir.Value) -> bool:
    """Whether an integer kernel makes `source`: it fuses with the QuantizeLinear, so nothing may come between."""
    producer = source.producer()
    inputs = () if producer is None else producer.inputs
    return any(_producer(value, "DequantizeLinear") is not None for value in inputs)


def window_positions(conv: ir.Node, shape: Sequence[int]) -> int | None:
    """How many positions the kernel of a float convolution will have after the rewrite; None without a rewrite.

    Args:
        conv: A Conv.
        shape: The shape of its weight.
    """
    source = conv.inputs[0]
    if source is None or source.producer() is not None or len(shape) != 4 or max(shape[2:]) == 1:
        return None
    if shape[1] % _MULTIPLE == 0 or graph.attribute_int(conv, "group", 1) != 1:
        return None
    axes = _axes(conv, shape, source)
    if axes is not None:
        return axes[0].blocks * axes[1].blocks
    return shape[2] * shape[3] if shape[1] % _MULTIPLE == _MULTIPLE - 1 else None


@dataclass(frozen=True)
class _Axis:
    """One axis of a convolution over blocks; the letters are those of the module's docstring.

    Attributes:
        stride: s, pixels of a block.
        size: Blocks of the input.
        zeros: l, zeros of the weight before the kernel.
        blocks: Blocks of the window.
        begin: f, blocks of padding before the input.
        end: Blocks of padding behind the input.
    """

    stride: int
    size: int
    zeros: int
    blocks: int
    begin: int
    end: int


def _axes(conv: ir.Node, shape: Sequence[int], source: ir.Value) -> tuple[_Axis, _Axis] | None:
    """Both axes of the convolution over blocks; None where space to depth does not apply."""
    strides = graph.attribute_ints(conv, "strides") or (1, 1)
    pads = graph.attribute_ints(conv, "pads") or (0, 0, 0, 0)
    s, sides = strides[0], tuple(source.shape or ())[2:]
    # Blocks are square, and a kernel with dilations has no neighbouring pixels to join.
    explicit = graph.attribute_string(conv, "auto_pad", "NOTSET") == "NOTSET" and len(set(strides)) == 1
    if not explicit or set(graph.attribute_ints(conv, "dilations") or (1,)) != {1}:
        return None
    # A kernel that is smaller than its stride does not read every pixel: blocks would only add work.
    if s not in _BLOCK_SIZES or shape[1] * s * s > _MOST_CHANNELS or min(shape[2:]) < s:
        return None
    known = [side for side in sides if isinstance(side, int) and side > 0 and side % s == 0]
    if len(known) != 2 or len(sides) != 2:
        return None
    rows, columns = (_axis(side, shape[2 + i], s, pads[i], pads[2 + i]) for i, side in enumerate(known))
    # Conv does not read the last blocks where the padding is negative, which ONNX does not allow.
    return None if rows.end < 0 or columns.end < 0 else (rows, columns)


def _axis(side: int, kernel: int, s: int, begin: int, end: int) -> _Axis:
    zeros = -begin % s
    blocks = -(-(zeros + kernel) // s)
    padding = (begin + zeros) // s
    # The last output reads up to block outputs - 1 + blocks - 1, counted from the first block of padding.
    outputs = (side + begin + end - kernel) // s + 1
    size = side // s
    return _Axis(s, size, zeros, blocks, padding, (outputs - 1 + blocks) - padding - size)


def _space_to_depth(first: _FirstConv, names: graph.NameSource) -> bool:
    """Make blocks of stride × stride pixels channels; returns whether it was done."""
    axes = _axes(first.conv, first.array.shape, first.source)
    if axes is None:
        return False
    (outputs, channels, *window), (y, x), s = first.array.shape, axes, axes[0].stride
    # SpaceToDepth puts the pixels of a block before the channels, row by row: the weight takes the same order.
    wide = np.zeros((outputs, channels, y.blocks * s, x.blocks * s), np.int8)
    wide[:, :, y.zeros : y.zeros + window[0], x.zeros : x.zeros + window[1]] = first.array
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


def _append_channel(first: _FirstConv, names: graph.NameSource) -> bool:
    """Add one channel where that makes a multiple of four; returns whether it was done."""
    channels = first.array.shape[1]
    if channels % _MULTIPLE != _MULTIPLE - 1:
        return False
    integers = first.quantize.outputs[0]
    shape = None if integers.shape is None else ir.Shape((integers.shape[0], channels + 1, *integers.shape[2:]))
    graph.set_constant(first.weight, np.pad(first.array, ((0, 0), (0, 1), (0, 0), (0, 0))))
    _declare(first)
    amounts = np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64)
    pads = graph.add_initializer(graph.scope_of(first.conv), names(f"{integers.name}_channel"), amounts)
    padded = ir.Value(name=names(f"{integers.name}_padded"), shape=shape, type=integers.type)
    node = ir.Node("", "Pad", [integers, pads, first.quantize.inputs[2]], outputs=[padded])
    _read_through(first, [node], padded, names)
    return True


def _read_through(first: _FirstConv, made: list[ir.Node], integers: ir.Value, names: graph.NameSource) -> None:
    """Let the convolution read `integers`, which the nodes `made` compute; remove the Q and DQ without readers."""
    old = first.dequantize
    floats = ir.Value(name=names(f"{integers.name}_dequantized"), shape=integers.shape, type=old.outputs[0].type)
    made.append(ir.Node("", "DequantizeLinear", [integers, *old.inputs[1:]], outputs=[floats]))
    for node in made:
        node.name = names(f"{node.outputs[0].name}_{node.op_type}")
    graph.scope_of(first.conv).insert_before(first.conv, made)
    first.conv.replace_input_with(0, floats)
    if graph.remove_if_dead(old):
        graph.remove_if_dead(first.quantize)


def _declare(first: _FirstConv) -> None:
    """Give the dequantized weight the shape of the weight."""
    read = first.conv.inputs[1]
    if read is not None:
        read.shape = first.weight.shape
