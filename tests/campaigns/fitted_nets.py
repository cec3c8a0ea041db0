"""Small networks of random features with a last layer that was fitted to a made-up truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 200
WIDTH = 16
HIDDEN = 48


def run(model: onnx.ModelProto, inputs: np.ndarray) -> list[list[np.ndarray]]:
    """By output, what the model gives for each sample."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    runs = [session.run(None, {"x": row[None]}) for row in inputs]
    return [[run[position] for run in runs] for position in range(len(session.get_outputs()))]


@dataclass
class Net:
    """A graph under construction. Its input is ``x``, of the shape of `inputs` without the first axis.

    Attributes:
        inputs: What the model runs on, one sample a row.
        nodes: So far.
        weights: By name.
        outputs: Names and ranks.
    """

    inputs: np.ndarray
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[tuple[str, list[int | str], int]] = field(default_factory=list)

    def add(self, op_type: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Append a node; arrays become initializers."""
        names = []
        for each in inputs:
            if isinstance(each, np.ndarray):
                names.append(f"w{len(self.weights)}")
                self.weights[names[-1]] = each
            else:
                names.append(each)
        result = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, names, [result], **attributes))
        return result

    def end(self, value: str, shape: list[int | str], dtype: int = TensorProto.FLOAT) -> None:
        """Make a value an output."""
        self.outputs.append((value, shape, dtype))

    def values(self, name: str) -> np.ndarray:
        """What a value is on all inputs."""
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        found: np.ndarray = np.concatenate(run(self._model(info), self.inputs)[0])
        return found

    def model(self) -> onnx.ModelProto:
        """The model, its batch dimension free."""
        info = [helper.make_tensor_value_info(name, dtype, shape) for name, shape, dtype in self.outputs]
        return self._model(info)

    def _model(self, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        shape = ["n", *self.inputs.shape[1:]]
        stored = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, "g", info, outputs, stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((SAMPLES, *(shape or (WIDTH,)))).astype(np.float32)


def random_weights(seed: int, *shape: int) -> np.ndarray:
    found: np.ndarray = (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
    return found


def features(net: Net, seed: int) -> str:
    """Random features of a vector."""
    return net.add("Relu", net.add("MatMul", "x", random_weights(seed, net.inputs.shape[-1], HIDDEN)))


def fitted(net: Net, features: str, targets: np.ndarray) -> str:
    """A linear layer that was fitted to targets, float[samples…, outputs], by ridge regression."""
    rows = net.values(features)
    flat = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    design = np.c_[flat, np.ones(len(flat))]
    wanted = targets.reshape(len(flat), -1)
    solved = np.linalg.solve(design.T @ design + 0.1 * np.eye(design.shape[1]), design.T @ wanted)
    product = net.add("MatMul", features, solved[:-1].astype(np.float32))
    return net.add("Add", product, solved[-1].astype(np.float32))


def truth_of(net: Net, seed: int, count: int) -> np.ndarray:
    """Numbers that depend on the inputs: float[samples…, count]."""
    hidden = np.tanh(net.inputs @ random_weights(seed, net.inputs.shape[-1], 24) * 1.5)
    found: np.ndarray = hidden @ random_weights(seed + 1, 24, count) * 3
    return found


def one_hot(scores: np.ndarray) -> np.ndarray:
    """4 for the highest class and 0 for the others, as sure as a trained classifier is."""
    found: np.ndarray = 4.0 * np.eye(scores.shape[-1])[scores.argmax(-1)]
    return found


def classes(net: Net, seed: int, count: int) -> str:
    return fitted(net, features(net, seed), one_hot(truth_of(net, seed, count)))


def vector(seed: int) -> Net:
    return Net(rows(seed))


def sequence(seed: int, steps: int = 20) -> Net:
    """Steps of a sequence, each like the one before it."""
    noise = rows(seed, steps, WIDTH)
    for step in range(1, steps):
        noise[:, step] = 0.6 * noise[:, step - 1] + 0.8 * noise[:, step]
    return Net(noise)


def picture(seed: int, channels: int = 3, side: int = 12) -> Net:
    """Smooth pictures between 0 and 1."""
    coarse = np.random.default_rng(seed).random((SAMPLES, channels, side // 3, side // 3))
    fine = coarse.repeat(3, 2).repeat(3, 3)
    for axis in (2, 3):
        fine = (fine + np.roll(fine, 1, axis) + np.roll(fine, -1, axis)) / 3
    return Net(fine.astype(np.float32))


def conv(net: Net, seed: int, out: int, value: str = "x", channels: int | None = None) -> str:
    channels = net.inputs.shape[1] if channels is None else channels
    weight = (np.random.default_rng(seed).standard_normal((out, channels, 3, 3)) / np.sqrt(9 * channels)).astype("f")
    return net.add("Conv", value, weight, pads=[1, 1, 1, 1])


def fitted_conv(net: Net, seed: int, targets: np.ndarray) -> str:
    """A 1×1 convolution of random features, fitted to targets float[samples, channels, height, width]."""
    features = net.add("Relu", conv(net, seed, 24))
    rows = net.values(features).transpose(0, 2, 3, 1).reshape(-1, 24).astype(np.float64)
    design = np.c_[rows, np.ones(len(rows))]
    wanted = targets.transpose(0, 2, 3, 1).reshape(len(rows), -1)
    solved = np.linalg.solve(design.T @ design + 0.1 * np.eye(25), design.T @ wanted)
    weight = solved[:-1].T.astype(np.float32)[:, :, None, None]
    return net.add("Conv", features, weight, solved[-1].astype(np.float32))
