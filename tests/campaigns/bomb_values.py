"""Small model files whose nodes make large tensors, at once or by doubling."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.campaigns.bomb_parts import HUGE, LARGE, ONE, integers, listed, model_of, node_of, summed_model

# One node that makes a large tensor


@listed
def _range() -> bytes:
    stored = {"a": np.int64(0), "b": np.int64(HUGE), "c": np.int64(1)}
    return summed_model([node_of("Range", ["a", "b", "c"])], {k: np.asarray(v) for k, v in stored.items()}, cast=True)


@listed
def _range_of_floats() -> bytes:
    stored = {"a": np.float32(0), "b": np.float32(LARGE), "c": np.float32(1)}
    return summed_model([node_of("Range", ["a", "b", "c"])], {k: np.asarray(v) for k, v in stored.items()})


@listed
def _constant_of_shape() -> bytes:
    return summed_model([node_of("ConstantOfShape", ["s"])], {"s": integers(LARGE)})


@listed
def _constant_of_shape_huge() -> bytes:
    return summed_model([node_of("ConstantOfShape", ["s"])], {"s": integers(2**20, 2**20, 2**20)})


@listed
def _tile() -> bytes:
    return summed_model([node_of("Tile", ["x", "n"])], {"n": integers(LARGE)})


@listed
def _tile_of_constant() -> bytes:
    return summed_model([node_of("Tile", ["w", "n"])], {"w": ONE, "n": integers(LARGE)})


@listed
def _expand() -> bytes:
    return summed_model([node_of("Expand", ["x", "s"])], {"s": integers(2**15, 2**14)})


@listed
def _expand_huge() -> bytes:
    return summed_model([node_of("Expand", ["x", "s"])], {"s": integers(HUGE)})


@listed
def _resize() -> bytes:
    nodes = [node_of("Reshape", ["x", "s"], ["r"]), node_of("Resize", ["r", "", "k"])]
    return summed_model(nodes, {"s": integers(1, 1, 1, 1), "k": np.array([1, 1, 2**15, 2**14], np.float32)})


@listed
def _upsample() -> bytes:
    nodes = [node_of("Reshape", ["x", "s"], ["r"]), node_of("Upsample", ["r", "k"])]
    return summed_model(nodes, {"s": integers(1, 1, 1, 1), "k": np.array([1, 1, 2**15, 2**14], np.float32)}, opset=9)


@listed
def _pad() -> bytes:
    return summed_model([node_of("Pad", ["x", "p"])], {"p": integers(LARGE, 0)})


@listed
def _one_hot() -> bytes:
    stored = {"i": integers(0), "d": integers(LARGE), "v": np.array([0, 1], np.float32)}
    return summed_model([node_of("OneHot", ["i", "d", "v"])], stored)


@listed
def _random_normal() -> bytes:
    return summed_model([node_of("RandomNormal", [], shape=[2**15, 2**14])], {})


@listed
def _random_uniform_huge() -> bytes:
    return summed_model([node_of("RandomUniform", [], shape=[2**20, 2**20])], {})


@listed
def _eye_like() -> bytes:
    return summed_model(
        [node_of("Expand", ["x", "s"], ["e"]), node_of("EyeLike", ["e"])], {"s": integers(2**15, 2**14)}
    )


@listed
def _einsum() -> bytes:
    nodes = [node_of("Expand", ["x", "s"], ["e"]), node_of("Einsum", ["e", "e"], equation="i,j->ij")]
    return summed_model(nodes, {"s": integers(2**15)})


@listed
def _outer_product() -> bytes:
    nodes = [node_of("Expand", ["x", "s"], ["e"]), node_of("Expand", ["x", "t"], ["f"]), node_of("MatMul", ["e", "f"])]
    return summed_model(nodes, {"s": integers(2**15, 1), "t": integers(1, 2**15)})


@listed
def _broadcast() -> bytes:
    nodes = [node_of("Expand", ["x", "s"], ["e"]), node_of("Expand", ["x", "t"], ["f"]), node_of("Add", ["e", "f"])]
    return summed_model(nodes, {"s": integers(2**15, 1), "t": integers(1, 2**15)})


@listed
def _gather() -> bytes:
    nodes = [node_of("Expand", ["x", "s"], ["e"]), node_of("Expand", ["i", "n"], ["j"]), node_of("Gather", ["e", "j"])]
    return summed_model(nodes, {"s": integers(2, 2**15), "n": integers(2**15), "i": integers(0)})


@listed
def _convolution() -> bytes:
    nodes = [node_of("Reshape", ["x", "s"], ["r"]), node_of("Conv", ["r", "w"], pads=[2**14, 2**14, 2**13, 2**13])]
    return summed_model(nodes, {"s": integers(1, 1, 1, 1), "w": np.ones((1, 1, 1, 1), np.float32)})


@listed
def _transposed_convolution() -> bytes:
    nodes = [
        node_of("Reshape", ["x", "s"], ["r"]),
        node_of("ConvTranspose", ["r", "w"], output_shape=[2**15, 2**14], strides=[2**15, 2**14]),
    ]
    return summed_model(nodes, {"s": integers(1, 1, 1, 1), "w": np.ones((1, 1, 1, 1), np.float32)})


@listed
def _depth_to_sequence() -> bytes:
    nodes = [
        node_of("Expand", ["x", "s"], ["e"]),
        node_of("SplitToSequence", ["e"], ["q"], axis=0, keepdims=1),
        node_of("ConcatFromSequence", ["q"], axis=0),
    ]
    return summed_model(nodes, {"s": integers(2**24)})


# Doublings


def _doubled(times: int, double: Callable[[str, str], NodeProto], first: str = "w") -> list[NodeProto]:
    names = [first, *(f"k{i}" for i in range(times - 1)), "big"]
    return [double(before, after) for before, after in itertools.pairwise(names)]


@listed
def _concat_of_constants() -> bytes:
    return summed_model(_doubled(34, lambda a, b: node_of("Concat", [a, a], [b], axis=0)), {"w": ONE})


@listed
def _concat_of_inputs() -> bytes:
    return summed_model(_doubled(30, lambda a, b: node_of("Concat", [a, a], [b], axis=0), "x"), {})


@listed
def _concat_of_integers() -> bytes:
    return summed_model(
        _doubled(34, lambda a, b: node_of("Concat", [a, a], [b], axis=0)), {"w": integers(1)}, cast=True
    )


@listed
def _tile_doubled() -> bytes:
    return summed_model(_doubled(30, lambda a, b: node_of("Tile", [a, "n"], [b]), "x"), {"n": integers(2)})


@listed
def _many_large_outputs() -> bytes:
    """No value takes more than 64 MiB, and all together 6 GiB; all are outputs."""
    nodes = [node_of("Expand", ["x", "s"], [f"o{i}"]) for i in range(96)]
    outputs = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, [2**24]) for i in range(96)]
    return model_of(nodes, {"s": integers(2**24)}, outputs=outputs).SerializeToString()


@listed
def _strings_doubled() -> bytes:
    nodes = _doubled(30, lambda a, b: node_of("Concat", [a, a], [b], axis=0), "s")
    nodes += [node_of("Shape", ["big"], ["n"]), node_of("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    model = model_of([*nodes, node_of("Add", ["x", "f"], ["z"])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(["word"], object), "s"))
    return model.SerializeToString()


@listed
def _string_joined() -> bytes:
    nodes = _doubled(36, lambda a, b: node_of("StringConcat", [a, a], [b]), "s")
    nodes += [node_of("Shape", ["big"], ["n"]), node_of("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    model = model_of([*nodes, node_of("Add", ["x", "f"], ["z"])], opset=20)
    model.graph.initializer.append(numpy_helper.from_array(np.array(["word"], object), "s"))
    return model.SerializeToString()
