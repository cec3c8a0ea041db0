"""The shapes that convolutions and poolings give: see `run_shapes`."""

from __future__ import annotations

from collections.abc import Sequence

from modelopt import graph
from modelopt.consteval.known_inputs import KnownInputs
from modelopt.consteval.sizes import Shape


def _lists(known: KnownInputs, rank: int) -> tuple[Shape, Shape, Shape]:
    """Strides, dilations and pads of a convolution or a pooling over `rank` spatial axes."""
    defaults = (("strides", (1,) * rank), ("dilations", (1,) * rank), ("pads", (0,) * (2 * rank)))
    strides, dilations, pads = (graph.attribute_ints(known.node, name) or default for name, default in defaults)
    return strides, dilations, pads


def _window(known: KnownInputs, kernel: Sequence[int], channels: int) -> Shape:
    """Of a convolution or a pooling with this kernel."""
    batch, _, *spatial = known.shape(0)
    rank = len(spatial)
    strides, dilations, pads = _lists(known, rank)
    if graph.attribute_string(known.node, "auto_pad", "NOTSET") in {"SAME_UPPER", "SAME_LOWER"}:
        return (batch, channels, *(-(-dim // stride) for dim, stride in zip(spatial, strides, strict=True)))
    made = [
        (dim + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, dim in enumerate(spatial)
    ]
    return (batch, channels, *(max(dim, 0) for dim in made))


def conv(known: KnownInputs) -> Shape:
    """Of a Conv."""
    weight = known.shape(1)
    return _window(known, weight[2:], weight[0])


def pool(known: KnownInputs) -> Shape:
    """Of a pooling with a kernel."""
    return _window(known, graph.attribute_ints(known.node, "kernel_shape") or (), known.shape(0)[1])


def conv_transpose(known: KnownInputs) -> Shape:
    """Of a ConvTranspose."""
    batch, _, *spatial = known.shape(0)
    weight, rank = known.shape(1), len(spatial)
    channels = weight[1] * known.int("group", 1)
    given = graph.attribute_ints(known.node, "output_shape")
    if given:
        return (batch, channels, *given[-rank:])
    strides, dilations, pads = _lists(known, rank)
    more = graph.attribute_ints(known.node, "output_padding") or (0,) * rank
    made = [
        strides[i] * (dim - 1) + more[i] + dilations[i] * (weight[2 + i] - 1) + 1 - pads[i] - pads[i + rank]
        for i, dim in enumerate(spatial)
    ]
    return (batch, channels, *made)
