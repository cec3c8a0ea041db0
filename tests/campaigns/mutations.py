"""Seeded damage to small valid models: bytes, operators, attributes, edges, types, dims, weights, data files, scopes.

`mutant(seed)` is always the same: a model that works, and one to four changes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from tests.campaigns import generate
from tests.campaigns.mutation_picks import (
    DATA_NAME,
    a_name,
    a_node,
    a_tensor,
    a_value,
    copy_of,
    nodes_of,
    point_out,
    scopes_of,
)
from tests.campaigns.node_mutations import (
    DOMAINS,
    attribute_added,
    attribute_name,
    attribute_removed,
    attribute_twice,
    attribute_type,
    attribute_value,
    domain,
    edge_in,
    edge_out,
    node_removed,
    node_twice,
    nodes_swapped,
    operator,
)
from tests.campaigns.value_mutations import (
    tensor_dims,
    tensor_external,
    tensor_removed,
    tensor_reshaped,
    tensor_retyped,
    tensor_size,
    tensor_values,
    value_dims,
    value_retyped,
)
from tests.helpers import big_model


@dataclass(frozen=True)
class Mutant:
    """A damaged model.

    Attributes:
        content: The model file.
        data: Its data file, called `DATA_NAME`; None where it has none.
        changes: The names of the changes, in order.
    """

    content: bytes
    data: bytes | None
    changes: tuple[str, ...]


def mutant(seed: int) -> Mutant:
    """The mutant of this seed."""
    rng = Random(seed)
    proto, data = _base(rng)
    changes = []
    if rng.random() < 0.85:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            change = rng.choice(CHANGES)
            with suppress(DecodeError):  # bodies in bodies are too deep to be copied
                change(rng, proto)
            changes.append(change.__name__.lstrip("_"))
    content = proto.SerializeToString()
    if not changes or rng.random() < 0.1:
        content = damaged(rng, content)
        changes.append("bytes")
    if data is not None and rng.random() < 0.2:
        data = data[: rng.randrange(len(data))]
        changes.append("data file cut")
    return Mutant(content, data, tuple(changes))


def _base(rng: Random) -> tuple[onnx.ModelProto, bytes | None]:
    kind = rng.random()
    if kind < 0.15:
        return big_model(), None
    proto = generate.model(rng.randrange(2000)).proto
    if kind < 0.3 and proto.graph.initializer:
        return proto, _moved_out(proto)
    return proto, None


def _moved_out(proto: onnx.ModelProto) -> bytes:
    """Move all weights to a data file; returns its content."""
    data = b""
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        point_out(tensor, {"location": DATA_NAME, "offset": len(data), "length": len(raw)})
        data += raw
    return data or b"\0"


def _opset(rng: Random, proto: onnx.ModelProto) -> None:
    kind = rng.random()
    if kind < 0.6 and proto.opset_import:
        rng.choice(proto.opset_import).version = rng.choice((*range(1, 30), 0, -1, 100, 2**63 - 1))
    elif kind < 0.75:
        del proto.opset_import[:]
    elif kind < 0.9:
        proto.opset_import.add(domain=rng.choice(DOMAINS), version=rng.choice((1, 7, 13, 99)))
    else:
        proto.ir_version = rng.choice((0, 1, 2, 3, 4, 7, 99, 2**63 - 1, -1))


def _name_of_node(rng: Random, proto: onnx.ModelProto) -> None:
    a_node(rng, proto).name = rng.choice((*(node.name for node in nodes_of(proto)), "", "a" * 100_000))


def _name_of_tensor(rng: Random, proto: onnx.ModelProto) -> None:
    a_tensor(rng, proto).name = a_name(rng, proto)


def _name_of_value(rng: Random, proto: onnx.ModelProto) -> None:
    a_value(rng, proto).name = a_name(rng, proto)


def _interface(rng: Random, proto: onnx.ModelProto) -> None:
    values = rng.choice((proto.graph.input, proto.graph.output))
    kind = rng.random()
    if values and kind < 0.3:
        del values[rng.randrange(len(values))]
    elif values and kind < 0.6:
        values.add().CopyFrom(rng.choice(values))
    elif kind < 0.8:
        values.add().CopyFrom(a_value(rng, proto))
    else:
        values.add(name=a_name(rng, proto))


def _scope_interface(rng: Random, proto: onnx.ModelProto) -> None:
    """Inputs and outputs of a body or a function."""
    scope = rng.choice(scopes_of(proto))
    values = rng.choice((scope.input, scope.output))
    if values and rng.random() < 0.6:
        del values[rng.randrange(len(values))]
    elif isinstance(scope, onnx.GraphProto):
        values.add().CopyFrom(a_value(rng, proto))
    else:
        values.append(a_name(rng, proto))


def _body(rng: Random, proto: onnx.ModelProto) -> None:
    """A body where none belongs, one inside itself, or bodies in bodies."""
    node = a_node(rng, proto)
    body = copy_of(rng.choice([scope for scope in scopes_of(proto) if isinstance(scope, onnx.GraphProto)]))
    for _ in range(rng.choice((0, 0, 1, 5, 20))):
        outer = onnx.GraphProto(name="outer")
        outer.node.add(op_type="If", input=[a_name(rng, proto)], output=["deep"]).attribute.append(
            helper.make_attribute("then_branch", body)
        )
        body = outer
    node.attribute.append(helper.make_attribute(rng.choice(("body", "then_branch", "else_branch")), body))
    if rng.random() < 0.5:
        node.op_type = rng.choice(("If", "Loop", "Scan", "SequenceMap"))


def _function(rng: Random, proto: onnx.ModelProto) -> None:
    """A function, often one that calls itself, is there twice, or stands for a standard operator."""
    node = a_node(rng, proto)
    domain, name = rng.choice((("local", "F"), (node.domain, node.op_type), ("", "")))
    inner = [helper.make_node(rng.choice((name, "Add", "Relu")), ["a"], ["b"], domain=rng.choice((domain, "")))]
    made = helper.make_function(domain, name, ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    if rng.random() < 0.3:
        made.attribute.extend(["alpha", "alpha"])
    proto.functions.append(made)
    if rng.random() < 0.5:
        node.op_type, node.domain = name, domain
    if rng.random() < 0.5:
        proto.opset_import.add(domain=domain, version=1)


def _side_data(rng: Random, proto: onnx.ModelProto) -> None:
    """What surrounds the graph: metadata, annotations, value types, texts, sparse tensors, training."""
    graph = proto.graph
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(2):
            proto.metadata_props.add(
                key=rng.choice(("", "modelopt", "modelopt.log", "k")), value=rng.choice(("", "{", "v" * 99))
            )
    elif kind == 1:
        note = graph.quantization_annotation.add(tensor_name=a_name(rng, proto))
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=a_name(rng, proto))
    elif kind == 2:
        graph.value_info.add().CopyFrom(a_value(rng, proto))
    elif kind == 3:
        proto.doc_string = graph.doc_string = "\x1b[2J" * 10
    elif kind == 4:
        graph.sparse_initializer.add()
    elif kind == 5:
        proto.training_info.add()
    else:
        proto.ClearField("graph")


CHANGES: Sequence[Callable[[Random, onnx.ModelProto], None]] = (
    *(operator, operator, domain, attribute_value, attribute_value, attribute_removed, attribute_twice),
    *(attribute_type, attribute_name, attribute_added, edge_in, edge_in, edge_out, node_twice, node_removed),
    *(nodes_swapped, value_retyped, value_dims, tensor_dims, tensor_size, tensor_retyped, tensor_reshaped),
    *(tensor_reshaped, tensor_values, tensor_values, tensor_external, tensor_removed, _opset, _name_of_node),
    *(_name_of_tensor, _name_of_value, _interface, _scope_interface, _body, _function, _side_data),
)


def damaged(rng: Random, content: bytes) -> bytes:
    """Bytes flipped, inserted, removed, repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 16))]
        elif kind == 4:
            data[at:at] = data[at : at + 40]
        elif rng.random() < 0.4:
            del data[at:]
    return bytes(data)
