"""Models with numbers that do not fit each other, as a file may hold them: made of sound ones, with a seed."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto, numpy_helper

from modelopt.graph import invariants
from modelopt.io import serialize
from tests.campaigns import prunable_models

_SOUND = 400
_NUMBERS = (0, -1, 1, 2, 3, 5, 7, -5, 100)
_HUGE = 2**40


def damaged(seed: int) -> ir.Model | None:
    """A model of `prunable_models` with one or two numbers or shapes changed; None where loading would refuse it.

    Shapes of values are those before the change, those that onnx infers after it, or not known, as a file has them.
    """
    rng = np.random.default_rng(seed)
    proto = prunable_models.model(int(rng.integers(_SOUND)))
    infers_before, infers_after = rng.permutation([True, False, False])[:2]
    if infers_before:
        proto = onnx.shape_inference.infer_shapes(proto)
    for _ in range(int(rng.integers(1, 3))):
        [_change_attribute, _change_shape, _change_integer, _change_input][int(rng.integers(4))](proto.graph, rng)
    if infers_after:
        with contextlib.suppress(onnx.shape_inference.InferenceError):
            proto = onnx.shape_inference.infer_shapes(proto)
    model = serialize.from_bytes(proto.SerializeToString())
    return None if invariants.check(model) else model


def _change_attribute(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Groups, axes, block sizes, numbers of heads; permutations, split sizes, pads."""
    kinds = {AttributeProto.INT, AttributeProto.INTS}
    found = [each for node in graph.node for each in node.attribute if each.type in kinds]
    if not found:
        return
    attribute, number = found[int(rng.integers(len(found)))], int(rng.choice(_NUMBERS))
    if attribute.type == AttributeProto.INT:
        attribute.i = number
    elif attribute.ints and rng.random() < 0.7:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = number
    else:
        attribute.ints.append(number)


def _change_shape(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """An axis of a weight gets another size, goes, or comes."""
    found = [each for each in graph.initializer if each.data_type == TensorProto.FLOAT]
    tensor = found[int(rng.integers(len(found)))]
    array = numpy_helper.to_array(tensor)
    shape, place = list(array.shape), int(rng.integers(max(1, array.ndim)))
    kind = int(rng.integers(3)) if shape else 2
    if kind == 0:
        shape[place] = max(0, shape[place] + int(rng.choice([-3, -1, 1, 2])))
    elif kind == 1:
        shape.pop(place)
    else:
        shape.insert(place, int(rng.choice([1, 2])))
    tensor.CopyFrom(numpy_helper.from_array(np.resize(array, shape).astype(array.dtype), tensor.name))


def _change_integer(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Targets of Reshape, bounds of Slice, split sizes, indices, pads."""
    found = [each for each in graph.initializer if each.data_type == TensorProto.INT64]
    if not found:
        return
    tensor = found[int(rng.integers(len(found)))]
    array = np.array(numpy_helper.to_array(tensor))
    if array.size and rng.random() < 0.8:
        array.flat[int(rng.integers(array.size))] = int(rng.choice([*_NUMBERS, _HUGE]))
    else:
        array = np.append(array, 1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _change_input(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """A node reads another stored tensor, or none."""
    node = graph.node[int(rng.integers(len(graph.node)))]
    if node.input:
        names = [each.name for each in graph.initializer]
        name = "" if rng.random() < 0.3 else names[int(rng.integers(len(names)))]
        node.input[int(rng.integers(len(node.input)))] = name
