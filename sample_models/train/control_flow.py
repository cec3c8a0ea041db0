"""The two models with subgraphs, each as a PyTorch module to train and as an ONNX graph built node by node.

Between them, weights live wherever ONNX lets them live: initializers of the main graph, initializers of a
branch or loop body, Constant nodes inside a branch, and values a subgraph takes from the graph around it.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from training import Loss, Schedule

OPSET = 18
IR_VERSION = 9
STEPS = 8
WIDTH = 64
CONFIDENCE = 0.9


class EarlyExit(nn.Module):
    """A cheap classifier, and a deeper one on top of it for the inputs of which the cheap one is not sure."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 24)
        self.cheap = nn.Linear(24, 10)
        self.deep1 = nn.Linear(64 + 24, 96)
        self.deep2 = nn.Linear(96, 64)
        self.deep3 = nn.Linear(64, 10)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the cheap and of the deep branch."""
        hidden = torch.relu(self.stem(x))
        deep = torch.relu(self.deep1(torch.cat([x, hidden], dim=1)))
        return self.cheap(hidden), self.deep3(torch.relu(self.deep2(deep)))

    def forward(self, x: Tensor) -> Tensor:
        """What the ONNX model computes for a batch of one, for each sample of a batch."""
        cheap, deep = self.branches(x)
        sure = torch.softmax(cheap, dim=1).amax(dim=1, keepdim=True) > CONFIDENCE
        return torch.where(sure, cheap, deep)


def early_exit_loss(schedule: Schedule) -> Loss:
    """Both branches learn; the deep one counts twice as much."""

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        assert isinstance(model, EarlyExit)
        cheap, deep = model.branches(inputs)
        cheap_loss = nn.functional.cross_entropy(cheap, labels, label_smoothing=schedule.label_smoothing)
        deep_loss = nn.functional.cross_entropy(deep, labels, label_smoothing=schedule.label_smoothing)
        return 0.5 * cheap_loss + deep_loss

    return loss


class RowLoop(nn.Module):
    """A plain recurrent network that reads the image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.from_row = nn.Linear(8, WIDTH)
        self.from_state = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], WIDTH)
        for row in range(STEPS):
            state = torch.tanh(self.from_row(x[:, row]) + self.from_state(state))
        return self.head(state)


def build_early_exit(model: EarlyExit) -> onnx.ModelProto:
    """The If model: `then` passes the cheap logits on, `else` computes the deep ones.

    The deep branch holds its first weights as initializers of its own and its second as Constant nodes. It
    takes the last bias, the features and the hidden layer from the graph around it. One If decides for the
    whole batch (all of it must be sure), so a batch of one is the intended use.
    """
    then_branch = helper.make_graph(
        nodes=[helper.make_node("Identity", ["cheap"], ["then_logits"])],
        name="exit_early",
        inputs=[],
        outputs=[_floats("then_logits", ["batch", 10])],
    )
    else_branch = helper.make_graph(
        nodes=[
            helper.make_node("Concat", ["features", "hidden"], ["both"], axis=1),
            helper.make_node("MatMul", ["both", "deep1_weight"], ["deep1_product"]),
            helper.make_node("Add", ["deep1_product", "deep1_bias"], ["deep1_sum"]),
            helper.make_node("Relu", ["deep1_sum"], ["deep1"]),
            _constant_node("deep2_weight", _weight(model.deep2)),
            _constant_node("deep2_bias", _bias(model.deep2)),
            helper.make_node("MatMul", ["deep1", "deep2_weight"], ["deep2_product"]),
            helper.make_node("Add", ["deep2_product", "deep2_bias"], ["deep2_sum"]),
            helper.make_node("Relu", ["deep2_sum"], ["deep2"]),
            helper.make_node("Gemm", ["deep2", "deep3_weight", "deep3_bias"], ["else_logits"]),
        ],
        name="go_deep",
        inputs=[],
        outputs=[_floats("else_logits", ["batch", 10])],
        initializer=[
            _tensor("deep1_weight", _weight(model.deep1)),
            _tensor("deep1_bias", _bias(model.deep1)),
            _tensor("deep3_weight", _weight(model.deep3)),
        ],
    )
    graph = helper.make_graph(
        nodes=[
            helper.make_node("MatMul", ["features", "stem_weight"], ["stem_product"]),
            helper.make_node("Add", ["stem_product", "stem_bias"], ["stem_sum"]),
            helper.make_node("Relu", ["stem_sum"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", "cheap_weight", "cheap_bias"], ["cheap"]),
            helper.make_node("Softmax", ["cheap"], ["probability"], axis=1),
            helper.make_node("ReduceMax", ["probability", "class_axis"], ["confidence"], keepdims=0),
            helper.make_node("ReduceMin", ["confidence"], ["least_confidence"], keepdims=0),
            helper.make_node("Greater", ["least_confidence", "threshold"], ["sure"]),
            helper.make_node(
                "If",
                ["sure"],
                ["logits"],
                name="early_exit",
                then_branch=then_branch,
                else_branch=else_branch,
            ),
        ],
        name="digits_earlyexit",
        inputs=[_floats("features", ["batch", 64])],
        outputs=[_floats("logits", ["batch", 10])],
        initializer=[
            _tensor("stem_weight", _weight(model.stem)),
            _tensor("stem_bias", _bias(model.stem)),
            _tensor("cheap_weight", _weight(model.cheap)),
            _tensor("cheap_bias", _bias(model.cheap)),
            _tensor("deep3_bias", _bias(model.deep3)),  # used only inside go_deep
            _tensor("threshold", np.array(CONFIDENCE, np.float32)),
            _tensor("class_axis", np.array([1], np.int64)),
        ],
    )
    return _checked_model(graph)


def build_loop(model: RowLoop) -> onnx.ModelProto:
    """The Loop model: a state carried over eight rows, and each step's state as a second, scanned output.

    The recurrent weight is an initializer of the body; the input weight and bias belong to the graph around.
    """
    body = helper.make_graph(
        nodes=[
            helper.make_node("Gather", ["rows", "step"], ["row"], axis=1),
            helper.make_node("MatMul", ["row", "row_weight"], ["row_product"]),
            helper.make_node("Add", ["row_product", "row_bias"], ["row_sum"]),
            helper.make_node("MatMul", ["state", "state_weight"], ["state_product"]),
            helper.make_node("Add", ["row_sum", "state_product"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["next_state"]),
            helper.make_node("Identity", ["go_on"], ["still_go_on"]),
            helper.make_node("Identity", ["next_state"], ["scanned_state"]),
        ],
        name="one_row",
        inputs=[
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            _floats("state", ["batch", WIDTH]),
        ],
        outputs=[
            helper.make_tensor_value_info("still_go_on", TensorProto.BOOL, []),
            _floats("next_state", ["batch", WIDTH]),
            _floats("scanned_state", ["batch", WIDTH]),
        ],
        initializer=[_tensor("state_weight", _weight(model.from_state))],
    )
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    graph = helper.make_graph(
        nodes=[
            helper.make_node("Shape", ["rows"], ["batch_size"], end=1),
            helper.make_node("Concat", ["batch_size", "width"], ["state_shape"], axis=0),
            helper.make_node("ConstantOfShape", ["state_shape"], ["first_state"], value=zero),
            helper.make_node(
                "Loop", ["steps", "yes", "first_state"], ["last_state", "states"], name="over_rows", body=body
            ),
            helper.make_node("Gemm", ["last_state", "head_weight", "head_bias"], ["logits"]),
        ],
        name="digits_loop",
        inputs=[_floats("rows", ["batch", STEPS, 8])],
        outputs=[_floats("logits", ["batch", 10]), _floats("states", ["steps", "batch", WIDTH])],
        initializer=[
            _tensor("row_weight", _weight(model.from_row)),
            _tensor("row_bias", _bias(model.from_row)),
            _tensor("head_weight", _weight(model.head)),
            _tensor("head_bias", _bias(model.head)),
            _tensor("steps", np.array(STEPS, np.int64)),
            _tensor("yes", np.array(True)),
            _tensor("width", np.array([WIDTH], np.int64)),
        ],
    )
    return _checked_model(graph)


def _checked_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="modelopt-samples",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _weight(layer: nn.Linear) -> np.ndarray:
    """The weight in ONNX's MatMul order: (in, out)."""
    return layer.weight.detach().numpy().T


def _bias(layer: nn.Linear) -> np.ndarray:
    return layer.bias.detach().numpy()


def _tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, order="C"), name)


def _floats(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _constant_node(name: str, values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=_tensor(f"{name}_value", values))
