"""What attacks by paths share: the place, the attack, and ordinary models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

MARK = b"CaNaRy42"


ROWS, _COLUMNS = 25, 40


MODEL, DATA, OUTPUT = "model.onnx", "w.bin", "out.onnx"


WEIGHT_BYTES = 4 * ROWS * _COLUMNS


@dataclass(frozen=True)
class Place:
    """Where an attack is set up.

    Attributes:
        work: The working directory, with the model.
        outside: The folder beside it, with the secret.
    """

    work: Path
    outside: Path

    @property
    def secret(self) -> Path:
        """A file whose bytes could be the weights."""
        return self.outside / "kept.bin"


Setup = Callable[[Place], None]


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Attributes:
        name: For the table.
        setup: Writes the model and what it needs.
        arguments: Of one command of its own, in place of all commands.
        refused: Whether each command that reads weights must fail.
    """

    name: str
    setup: Setup
    arguments: tuple[str, ...] = ()
    refused: bool = True


# Models


def weight_tensor(location: str, entries: Mapping[str, object] | None = None) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(ROWS, _COLUMNS))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **(entries or {})}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_of(
    nodes: Sequence[NodeProto] | None = None, tensors: Sequence[TensorProto] = (), graph: str = "g"
) -> onnx.ModelProto:
    """A matrix product, or `nodes` from x to y."""
    steps = list(nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, ROWS])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, _COLUMNS])]
    whole = helper.make_graph(steps, graph, inputs, outputs, list(tensors))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(whole, opset_imports=imports, ir_version=9)


def inline_model(name: str = "w") -> TensorProto:
    values = np.linspace(-1, 1, ROWS * _COLUMNS, dtype=np.float32).reshape(ROWS, _COLUMNS)
    return numpy_helper.from_array(values, name)


def write_model(place: Place, model: onnx.ModelProto) -> None:
    (place.work / MODEL).write_bytes(model.SerializeToString())
