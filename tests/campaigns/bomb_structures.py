"""Small model files of many, deep or long parts, or with sizes and references that are not true."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import onnx
from onnx import AttributeProto, TensorProto, helper

from tests.campaigns.bomb_loops import loop, nested
from tests.campaigns.bomb_parts import CHAIN, HUGE, LARGE, ONE, integers, listed, model_of, node_of, summed_model


@listed
def _chain_of_nodes() -> bytes:
    names = ["x", *(f"v{i}" for i in range(CHAIN - 1)), "z"]
    return model_of([node_of("Relu", [a], [b]) for a, b in itertools.pairwise(names)]).SerializeToString()


@listed
def _chain_of_constants() -> bytes:
    names = ["w", *(f"v{i}" for i in range(CHAIN))]
    nodes = [node_of("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    return model_of([*nodes, node_of("Add", ["x", names[-1]], ["z"])], {"w": ONE}).SerializeToString()


@listed
def _many_initializers() -> bytes:
    stored = {f"w{i}": ONE for i in range(CHAIN // 2)}
    return model_of([node_of("Sum", ["x", *stored], ["z"])], stored).SerializeToString()


@listed
def _many_inputs() -> bytes:
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1]) for i in range(20_000)]
    return model_of([node_of("Sum", [v.name for v in inputs], ["z"])], inputs=inputs).SerializeToString()


@listed
def _doc_string() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    model.graph.doc_string = "d" * (50 * 10**6)
    return model.SerializeToString()


@listed
def _long_metadata() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    for number in range(100_000):
        model.metadata_props.add(key=f"k{number}", value="v" * 40)
    return model.SerializeToString()


@listed
def _long_attribute() -> bytes:
    node = node_of("Constant", [], ["k"], value_ints=list(range(4 * 10**6)))
    nodes = [node, node_of("Size", ["k"], ["n"]), node_of("Cast", ["n"], ["f"], to=TensorProto.FLOAT)]
    return model_of([*nodes, node_of("Add", ["x", "f"], ["z"])]).SerializeToString()


@listed
def _deep_bodies() -> bytes:
    return loop(nested(28), 1)


@listed
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


@listed
def _deep_sequence_type() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    model.graph.value_info.add(name="q").type.CopyFrom(_deep_type(45))
    return model.SerializeToString()


def _deep_type(depth: int) -> onnx.TypeProto:
    made = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    for level in range(depth):
        wrap = helper.make_sequence_type_proto if level % 2 else helper.make_optional_type_proto
        made = wrap(made)
    return made


@listed
def _sparse_initializer() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [HUGE]))
    return model.SerializeToString()


@listed
def _sparse_constant() -> bytes:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, places, [LARGE])
    return summed_model([node_of("Constant", [], ["big"], sparse_value=sparse)], {})


@listed
def _huge_declared_shape() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["r"]), node_of("Relu", ["r"], ["z"])])
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [HUGE, HUGE]))
    return model.SerializeToString()


@listed
def _huge_input() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [HUGE])
    return model_of([node_of("ReduceSum", ["x"], ["z"])], inputs=[x]).SerializeToString()


@listed
def _large_input() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [LARGE // 2])
    return model_of([node_of("ReduceSum", ["x"], ["z"])], inputs=[x]).SerializeToString()


@listed
def _huge_dims_of_initializer() -> bytes:
    model = model_of([node_of("Add", ["x", "w"], ["z"])])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2**62, 2**62], raw_data=b"\0\0\0\0")
    return model.SerializeToString()


@listed
def _empty_initializer_of_huge_dims() -> bytes:
    model = model_of([node_of("Add", ["x", "w"], ["z"])])
    model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[0, 2**62, 2**62], raw_data=b"")
    return model.SerializeToString()


@listed
def _external_data_of_huge_length() -> bytes:
    return _external({"location": "none.bin", "offset": str(2**62), "length": str(2**62)})


@listed
def _external_data_in_itself() -> bytes:
    return _external({"location": "model.onnx", "offset": "0", "length": str(4 * HUGE)})


@listed
def _external_data_with_long_number() -> bytes:
    return _external({"location": "model.onnx", "offset": "9" * 10**6, "length": "4"})


def _external(entries: Mapping[str, str]) -> bytes:
    model = model_of([node_of("ReduceSum", ["w"], ["s"], keepdims=0), node_of("Add", ["x", "s"], ["z"])])
    tensor = model.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[HUGE])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return model.SerializeToString()


@listed
def _huge_opset() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    model.opset_import[0].version = 2**62
    return model.SerializeToString()


@listed
def _negative_opset() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    model.opset_import[0].version = -(2**62)
    return model.SerializeToString()


@listed
def _huge_ir_version() -> bytes:
    model = model_of([node_of("Relu", ["x"], ["z"])])
    model.ir_version = 2**62
    return model.SerializeToString()


@listed
def _duplicate_names() -> bytes:
    nodes = [node_of("Relu", ["x"], ["z"]) for _ in range(1000)]
    return model_of(nodes, {"x": ONE}).SerializeToString()


@listed
def _cycle() -> bytes:
    nodes = [node_of("Add", ["x", "b"], ["a"]), node_of("Relu", ["a"], ["b"]), node_of("Relu", ["b"], ["z"])]
    return model_of(nodes).SerializeToString()


@listed
def _attribute_of_huge_number() -> bytes:
    nodes = [node_of("Reshape", ["x", "s"], ["r"]), node_of("MaxPool", ["r"], ["p"], kernel_shape=[2**31, 2**31])]
    return model_of(
        [*nodes, node_of("Reshape", ["p", "t"], ["z"])], {"s": integers(1, 1, 1, 1), "t": integers(1)}
    ).SerializeToString()


@listed
def _attribute_of_all_kinds() -> bytes:
    """One attribute that says it is an integer and holds a graph, a tensor and numbers too."""
    model = model_of([node_of("Relu", ["x"], ["z"])])
    attribute = model.graph.node[0].attribute.add(name="a", type=AttributeProto.INT, i=2**63 - 1, ints=[2**62] * 1000)
    attribute.g.CopyFrom(nested(20))
    return model.SerializeToString()
