"""What fixes how often a body runs, and how many tensors a sequence holds: see `run_needs`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.sizes import Shape


def goes_on(body: ir.Graph) -> bool:
    """Whether the body of a Loop never ends it: it hands on its condition, or gives one that is true."""
    condition = body.outputs[0]
    while (producer := condition.producer()) is not None and graph.is_standard(producer, "Identity"):
        source = producer.inputs[0]
        if source is None:
            return False
        condition = source
    return condition is body.inputs[1] or bool(graph.scalar(condition))


def parts_of(node: ir.Node, shape: Shape, numbers: Sequence[np.ndarray | None]) -> Shape:
    """How many tensors a SplitToSequence makes of a tensor of this shape."""
    axis = graph.attribute_int(node, "axis", 0)
    if len(node.inputs) < 2 or node.inputs[1] is None:
        return (shape[axis],) if -len(shape) <= axis < len(shape) else (1,)
    split = numbers[1]
    if split is None or split.ndim or not -len(shape) <= axis < len(shape):
        return (1,)
    return (-(-shape[axis] // max(int(split), 1)),)
