"""Small model files that ask for much memory or time, one builder for each kind; see `bombs`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

HUGE = 2**40
"""A number of elements that no machine holds."""

LARGE = 2**29
"""A number of float32 elements that takes 2 GiB: a machine may hold it, and the limit of a bomb is 400 MB."""

CHAIN = 200_000
"""How many nodes the long chains have."""

_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
_Z = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
_DEEP = 60

Build = Callable[[], bytes]

MODELS: dict[str, Build] = {}
"""By name the builder of the bytes of each model."""


def _bomb(build: Build) -> Build:
    MODELS[build.__name__.strip("_")] = build
    return build


def _model(
    nodes: Sequence[NodeProto],
    stored: Mapping[str, np.ndarray] | None = None,
    *,
    inputs: Sequence[ValueInfoProto] = (_X,),
    outputs: Sequence[ValueInfoProto] = (_Z,),
    opset: int = 17,
) -> ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _summed(
    nodes: Sequence[NodeProto], stored: Mapping[str, np.ndarray], *, opset: int = 17, cast: bool = False
) -> bytes:
    """A model that adds the sum of the value ``big``, which `nodes` compute, to its input."""
    last = [helper.make_node("Cast", ["big"], ["cast"], to=TensorProto.FLOAT)] if cast else []
    last += [
        helper.make_node("ReduceSum", ["cast" if cast else "big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["z"]),
    ]
    return _model([*nodes, *last], stored, opset=opset).SerializeToString()


def _node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("big",), **attributes: Any) -> NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_ONE = np.ones(1, np.float32)


# One node that makes a large tensor


@_bomb
def _range() -> bytes:
    stored = {"a": np.int64(0), "b": np.int64(HUGE), "c": np.int64(1)}
    return _summed([_node("Range", ["a", "b", "c"])], {k: np.asarray(v) for k, v in stored.items()}, cast=True)


@_bomb
def _range_of_floats() -> bytes:
    stored = {"a": np.float32(0), "b": np.float32(LARGE), "c": np.float32(1)}
    return _summed([_node("Range", ["a", "b", "c"])], {k: np.asarray(v) for k, v in stored.items()})


@_bomb
def _constant_of_shape() -> bytes:
    return _summed([_node("ConstantOfShape", ["s"])], {"s": _ints(LARGE)})


@_bomb
def _constant_of_shape_huge() -> bytes:
    return _summed([_node("ConstantOfShape", ["s"])], {"s": _ints(2**20, 2**20, 2**20)})


@_bomb
def _tile() -> bytes:
    return _summed([_node("Tile", ["x", "n"])], {"n": _ints(LARGE)})


@_bomb
def _tile_of_constant() -> bytes:
    return _summed([_node("Tile", ["w", "n"])], {"w": _ONE, "n": _ints(LARGE)})


@_bomb
def _expand() -> bytes:
    return _summed([_node("Expand", ["x", "s"])], {"s": _ints(2**15, 2**14)})


@_bomb
def _expand_huge() -> bytes:
    return _summed([_node("Expand", ["x", "s"])], {"s": _ints(HUGE)})


@_bomb
def _resize() -> bytes:
    nodes = [_node("Reshape", ["x", "s"], ["r"]), _node("Resize", ["r", "", "k"])]
    return _summed(nodes, {"s": _ints(1, 1, 1, 1), "k": np.array([1, 1, 2**15, 2**14], np.float32)})


@_bomb
def _upsample() -> bytes:
    nodes = [_node("Reshape", ["x", "s"], ["r"]), _node("Upsample", ["r", "k"])]
    return _summed(nodes, {"s": _ints(1, 1, 1, 1), "k": np.array([1, 1, 2**15, 2**14], np.float32)}, opset=9)


@_bomb
def _pad() -> bytes:
    return _summed([_node("Pad", ["x", "p"])], {"p": _ints(LARGE, 0)})


@_bomb
def _one_hot() -> bytes:
    stored = {"i": _ints(0), "d": _ints(LARGE), "v": np.array([0, 1], np.float32)}
    return _summed([_node("OneHot", ["i", "d", "v"])], stored)


@_bomb
def _random_normal() -> bytes:
    return _summed([_node("RandomNormal", [], shape=[2**15, 2**14])], {})


@_bomb
def _random_uniform_huge() -> bytes:
    return _summed([_node("RandomUniform", [], shape=[2**20, 2**20])], {})


@_bomb
def _eye_like() -> bytes:
    return _summed([_node("Expand", ["x", "s"], ["e"]), _node("EyeLike", ["e"])], {"s": _ints(2**15, 2**14)})


@_bomb
def _einsum() -> bytes:
    nodes = [_node("Expand", ["x", "s"], ["e"]), _node("Einsum", ["e", "e"], equation="i,j->ij")]
    return _summed(nodes, {"s": _ints(2**15)})


@_bomb
def _outer_product() -> bytes:
    nodes = [_node("Expand", ["x", "s"], ["e"]), _node("Expand", ["x", "t"], ["f"]), _node("MatMul", ["e", "f"])]
    return _summed(nodes, {"s": _ints(2**15, 1), "t": _ints(1, 2**15)})


@_bomb
def _broadcast() -> bytes:
    nodes = [_node("Expand", ["x", "s"], ["e"]), _node("Expand", ["x", "t"], ["f"]), _node("Add", ["e", "f"])]
    return _summed(nodes, {"s": _ints(2**15, 1), "t": _ints(1, 2**15)})


@_bomb
def _gather() -> bytes:
    nodes = [_node("Expand", ["x", "s"], ["e"]), _node("Expand", ["i", "n"], ["j"]), _node("Gather", ["e", "j"])]
    return _summed(nodes, {"s": _ints(2, 2**15), "n": _ints(2**15), "i": _ints(0)})


@_bomb
def _convolution() -> bytes:
    nodes = [_node("Reshape", ["x", "s"], ["r"]), _node("Conv", ["r", "w"], pads=[2**14, 2**14, 2**13, 2**13])]
    return _summed(nodes, {"s": _ints(1, 1, 1, 1), "w": np.ones((1, 1, 1, 1), np.float32)})


@_bomb
def _transposed_convolution() -> bytes:
    nodes = [
        _node("Reshape", ["x", "s"], ["r"]),
        _node("ConvTranspose", ["r", "w"], output_shape=[2**15, 2**14], strides=[2**15, 2**14]),
    ]
    return _summed(nodes, {"s": _ints(1, 1, 1, 1), "w": np.ones((1, 1, 1, 1), np.float32)})


@_bomb
def _depth_to_sequence() -> bytes:
    nodes = [
        _node("Expand", ["x", "s"], ["e"]),
        _node("SplitToSequence", ["e"], ["q"], axis=0, keepdims=1),
        _node("ConcatFromSequence", ["q"], axis=0),
    ]
    return _summed(nodes, {"s": _ints(2**24)})


# Doublings


def _doubled(times: int, double: Callable[[str, str], NodeProto], first: str = "w") -> list[NodeProto]:
    names = [first, *(f"k{i}" for i in range(times - 1)), "big"]
    return [double(before, after) for before, after in itertools.pairwise(names)]


@_bomb
def _concat_of_constants() -> bytes:
    return _summed(_doubled(34, lambda a, b: _node("Concat", [a, a], [b], axis=0)), {"w": _ONE})


@_bomb
def _concat_of_inputs() -> bytes:
    return _summed(_doubled(30, lambda a, b: _node("Concat", [a, a], [b], axis=0), "x"), {})


@_bomb
def _concat_of_integers() -> bytes:
    return _summed(_doubled(34, lambda a, b: _node("Concat", [a, a], [b], axis=0)), {"w": _ints(1)}, cast=True)


@_bomb
def _tile_doubled() -> bytes:
    return _summed(_doubled(30, lambda a, b: _node("Tile", [a, "n"], [b]), "x"), {"n": _ints(2)})


@_bomb
def _many_large_outputs() -> bytes:
    """No value takes more than 64 MiB, and all together 6 GiB; all are outputs."""
    nodes = [_node("Expand", ["x", "s"], [f"o{i}"]) for i in range(96)]
    outputs = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, [2**24]) for i in range(96)]
    return _model(nodes, {"s": _ints(2**24)}, outputs=outputs).SerializeToString()


@_bomb
def _strings_doubled() -> bytes:
    nodes = _doubled(30, lambda a, b: _node("Concat", [a, a], [b], axis=0), "s")
    nodes += [_node("Shape", ["big"], ["n"]), _node("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    model = _model([*nodes, _node("Add", ["x", "f"], ["z"])])
    model.graph.initializer.append(numpy_helper.from_array(np.array(["word"], object), "s"))
    return model.SerializeToString()


@_bomb
def _string_joined() -> bytes:
    nodes = _doubled(36, lambda a, b: _node("StringConcat", [a, a], [b]), "s")
    nodes += [_node("Shape", ["big"], ["n"]), _node("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    model = _model([*nodes, _node("Add", ["x", "f"], ["z"])], opset=20)
    model.graph.initializer.append(numpy_helper.from_array(np.array(["word"], object), "s"))
    return model.SerializeToString()


# Control flow and functions


def _loop_body(nodes: Sequence[NodeProto], *, shape: Sequence[int | str] = (1,), level: str = "") -> GraphProto:
    """A body that hands on its condition and computes ``b`` from ``a``; `level` ends all its names."""
    inputs = [
        helper.make_tensor_value_info(f"i{level}", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"ci{level}", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"a{level}", TensorProto.FLOAT, shape),
    ]
    outputs = [
        helper.make_tensor_value_info(f"co{level}", TensorProto.BOOL, []),
        helper.make_tensor_value_info(f"b{level}", TensorProto.FLOAT, shape),
    ]
    handing_on = _node("Identity", [f"ci{level}"], [f"co{level}"])
    return helper.make_graph([handing_on, *nodes], "body", inputs, outputs)


def _loop(body: GraphProto, trips: int, **more: np.ndarray) -> bytes:
    stored = {"m": np.array(trips, np.int64), "c": np.ones((), bool), "w": _ONE, **more}
    return _summed([_node("Loop", ["m", "c", "w"], body=body)], stored)


@_bomb
def _loop_without_end() -> bytes:
    return _loop(_loop_body([_node("Add", ["a", "a"], ["b"])]), 2**62)


@_bomb
def _loop_that_doubles() -> bytes:
    return _loop(_loop_body([_node("Concat", ["a", "a"], ["b"], axis=0)], shape=("n",)), 40)


@_bomb
def _loop_that_collects() -> bytes:
    body = _loop_body([_node("Add", ["a", "a"], ["b"]), _node("Expand", ["a", "s"], ["e"])])
    body.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [2**20]))
    node = _node("Loop", ["m", "c", "w"], ["l", "big"], body=body)
    stored = {"m": np.array(2**12, np.int64), "c": np.ones((), bool), "w": _ONE, "s": _ints(2**20)}
    return _summed([node], stored)


@_bomb
def _loops_in_loops() -> bytes:
    return _loop(_nested(6), 2**10)


@_bomb
def _scan_over_much() -> bytes:
    body = helper.make_graph(
        [_node("Add", ["a", "v"], ["b"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("a", "v")],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    nodes = [
        _node("Expand", ["x", "s"], ["e"]),
        _node("Squeeze", ["x"], ["q"]),
        _node("Scan", ["q", "e"], ["big"], body=body, num_scan_inputs=1),
    ]
    return _summed(nodes, {"s": _ints(2**26)})


@_bomb
def _ifs_in_ifs() -> bytes:
    """Each branch holds two nodes of its own: nothing grows, but every name is looked up through all scopes."""
    inner = [_node("Relu", ["x"], ["t0"])]
    for level in range(1, _DEEP // 2):
        outs = [helper.make_tensor_value_info(f"t{level - 1}", TensorProto.FLOAT, [1])]
        both = [helper.make_graph(list(inner), name, [], outs) for name in ("then", "else")][:1]
        other = helper.make_graph([_node("Neg", ["x"], [f"t{level - 1}"])], "else", [], outs)
        inner = [_node("If", ["c"], [f"t{level}"], then_branch=both[0], else_branch=other)]
    last = inner[0].output[0]
    condition = [_node("Greater", ["x", "w"], ["g"]), _node("Squeeze", ["g"], ["c"])]
    return _model([*condition, *inner, _node("Identity", [last], ["z"])], {"w": _ONE}).SerializeToString()


@_bomb
def _functions_that_double() -> bytes:
    """Function k calls function k-1 twice: 2^30 nodes when all calls are inlined."""
    model = _model([helper.make_node("f30", ["x"], ["z"], domain="d")])
    model.opset_import.append(helper.make_opsetid("d", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    for level in range(31):
        nodes = [helper.make_node("Relu", ["a"], ["b"])]
        if level:
            nodes = [helper.make_node(f"f{level - 1}", [i], [o], domain="d") for i, o in (("a", "m"), ("m", "b"))]
        model.functions.append(helper.make_function("d", f"f{level}", ["a"], ["b"], nodes, imports))
    return model.SerializeToString()


@_bomb
def _function_that_calls_itself() -> bytes:
    model = _model([helper.make_node("f", ["x"], ["z"], domain="d")])
    model.opset_import.append(helper.make_opsetid("d", 1))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    nodes = [helper.make_node("f", ["a"], ["b"], domain="d")]
    model.functions.append(helper.make_function("d", "f", ["a"], ["b"], nodes, imports))
    return model.SerializeToString()


# Many parts, deep parts, long parts


@_bomb
def _chain_of_nodes() -> bytes:
    names = ["x", *(f"v{i}" for i in range(CHAIN - 1)), "z"]
    return _model([_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]).SerializeToString()


@_bomb
def _chain_of_constants() -> bytes:
    names = ["w", *(f"v{i}" for i in range(CHAIN))]
    nodes = [_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    return _model([*nodes, _node("Add", ["x", names[-1]], ["z"])], {"w": _ONE}).SerializeToString()


@_bomb
def _many_initializers() -> bytes:
    stored = {f"w{i}": _ONE for i in range(CHAIN // 2)}
    return _model([_node("Sum", ["x", *stored], ["z"])], stored).SerializeToString()


@_bomb
def _many_inputs() -> bytes:
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1]) for i in range(20_000)]
    return _model([_node("Sum", [v.name for v in inputs], ["z"])], inputs=inputs).SerializeToString()


@_bomb
def _doc_string() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    model.graph.doc_string = "d" * (50 * 10**6)
    return model.SerializeToString()


@_bomb
def _long_metadata() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    for number in range(100_000):
        model.metadata_props.add(key=f"k{number}", value="v" * 40)
    return model.SerializeToString()


@_bomb
def _long_attribute() -> bytes:
    node = _node("Constant", [], ["k"], value_ints=list(range(4 * 10**6)))
    nodes = [node, _node("Size", ["k"], ["n"]), _node("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    return _model([*nodes, _node("Add", ["x", "f"], ["z"])]).SerializeToString()


@_bomb
def _deep_bodies() -> bytes:
    return _loop(_nested(28), 1)


@_bomb
def _bodies_too_deep() -> bytes:
    """Bodies in bodies, deeper than protobuf parses: written by hand."""
    graph = b""
    for _ in range(5000):
        attribute = b"\x0a\x01b" + _message(6, graph) + b"\xa0\x01\x05"
        graph = _message(1, b"\x22\x02If" + _message(5, attribute))
    return _message(7, graph)


def _message(number: int, payload: bytes) -> bytes:
    """A field of a protobuf message that holds a message."""
    length, size = len(payload), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + payload


def _nested(depth: int) -> GraphProto:
    body = _loop_body([_node("Add", ["a0", "a0"], ["b0"])], level="0")
    for level in range(1, depth + 1):
        node = _node("Loop", ["m", "c", f"a{level}"], [f"b{level}"], body=body)
        body = _loop_body([node], level=str(level))
    return body


@_bomb
def _deep_sequence_type() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    model.graph.value_info.add(name="q").type.CopyFrom(_deep_type(45))
    return model.SerializeToString()


def _deep_type(depth: int) -> onnx.TypeProto:
    made = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    for level in range(depth):
        wrap = helper.make_sequence_type_proto if level % 2 else helper.make_optional_type_proto
        made = wrap(made)
    return made


@_bomb
def _sparse_initializer() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [HUGE]))
    return model.SerializeToString()


@_bomb
def _sparse_constant() -> bytes:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, places, [LARGE])
    return _summed([_node("Constant", [], ["big"], sparse_value=sparse)], {})


@_bomb
def _huge_declared_shape() -> bytes:
    model = _model([_node("Relu", ["x"], ["r"]), _node("Relu", ["r"], ["z"])])
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [HUGE, HUGE]))
    return model.SerializeToString()


@_bomb
def _huge_input() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [HUGE])
    return _model([_node("ReduceSum", ["x"], ["z"])], inputs=[x]).SerializeToString()


@_bomb
def _large_input() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [LARGE // 2])
    return _model([_node("ReduceSum", ["x"], ["z"])], inputs=[x]).SerializeToString()


@_bomb
def _huge_dims_of_initializer() -> bytes:
    model = _model([_node("Add", ["x", "w"], ["z"])])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2**62, 2**62], raw_data=b"\0\0\0\0")
    return model.SerializeToString()


@_bomb
def _empty_initializer_of_huge_dims() -> bytes:
    model = _model([_node("Add", ["x", "w"], ["z"])])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[0, 2**62, 2**62], raw_data=b"")
    return model.SerializeToString()


@_bomb
def _external_data_of_huge_length() -> bytes:
    return _external({"location": "none.bin", "offset": str(2**62), "length": str(2**62)})


@_bomb
def _external_data_in_itself() -> bytes:
    return _external({"location": "model.onnx", "offset": "0", "length": str(4 * HUGE)})


@_bomb
def _external_data_with_long_number() -> bytes:
    return _external({"location": "model.onnx", "offset": "9" * 10**6, "length": "4"})


def _external(entries: Mapping[str, str]) -> bytes:
    model = _model([_node("ReduceSum", ["w"], ["s"], keepdims=0), _node("Add", ["x", "s"], ["z"])])
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[HUGE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return model.SerializeToString()


@_bomb
def _huge_opset() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    model.opset_import[0].version = 2**62
    return model.SerializeToString()


@_bomb
def _negative_opset() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    model.opset_import[0].version = -(2**62)
    return model.SerializeToString()


@_bomb
def _huge_ir_version() -> bytes:
    model = _model([_node("Relu", ["x"], ["z"])])
    model.ir_version = 2**62
    return model.SerializeToString()


@_bomb
def _duplicate_names() -> bytes:
    nodes = [_node("Relu", ["x"], ["z"]) for _ in range(1000)]
    return _model(nodes, {"x": _ONE}).SerializeToString()


@_bomb
def _cycle() -> bytes:
    nodes = [_node("Add", ["x", "b"], ["a"]), _node("Relu", ["a"], ["b"]), _node("Relu", ["b"], ["z"])]
    return _model(nodes).SerializeToString()


@_bomb
def _attribute_of_huge_number() -> bytes:
    nodes = [_node("Reshape", ["x", "s"], ["r"]), _node("MaxPool", ["r"], ["p"], kernel_shape=[2**31, 2**31])]
    return _model(
        [*nodes, _node("Reshape", ["p", "t"], ["z"])], {"s": _ints(1, 1, 1, 1), "t": _ints(1)}
    ).SerializeToString()


@_bomb
def _attribute_of_all_kinds() -> bytes:
    """One attribute that says it is an integer and holds a graph, a tensor and numbers too."""
    model = _model([_node("Relu", ["x"], ["z"])])
    attribute = model.graph.node[0].attribute.add(name="a", type=AttributeProto.INT, i=2**63 - 1, ints=[2**62] * 1000)
    attribute.g.CopyFrom(_nested(20))
    return model.SerializeToString()


def tiny() -> bytes:
    """The ordinary model that the limits are compared with."""
    return _model([_node("Relu", ["x"], ["z"])]).SerializeToString()
