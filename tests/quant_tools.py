"""What the quantization tests share: a context, seeded models in ONNX text, and what onnxruntime made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.data import Dataset, Sample
from modelopt.io import serialize
from modelopt.runtime import exact
from modelopt.runtime.worker_runner import WorkerRunner
from tests.runtime_tools import session


@dataclass(frozen=True, kw_only=True, eq=False)
class Listed(Dataset):
    """Samples from a list of feeds."""

    source: str = "test"
    has_labels: bool = False
    feeds: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.feeds)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        for i in indices:
            yield Sample(self.feeds[i], None, f"test[{i}]")

    def digest(self) -> str:
        return "test"


def context(
    runner: WorkerRunner, feeds: list[dict[str, np.ndarray]] | None = None, target: str = "x86-vnni"
) -> Context:
    """A context with these samples; without samples when `feeds` is None."""
    return Context(runner, targets.resolve(target), None if feeds is None else Listed(feeds=feeds))


def model(text: str, **weights: np.ndarray) -> ir.Model:
    """A model from ONNX text, with initializers added by name; the text may use them freely."""
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def both_branches(columns: int, results: int) -> str:
    """The text of a model with an If: both branches multiply x by the weight ``w`` of the main graph."""
    return f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,{columns}] x) => (float[n,{results}] y)
    {{
      total = ReduceSum <keepdims = 0> (x)  zero = Constant <value_float = 0.0> ()  positive = Greater (total, zero)
      y = If (positive) <
        then_branch = a () => (float[n,{results}] p) {{ p = MatMul (x, w) }},
        else_branch = b () => (float[n,{results}] q) {{ q = MatMul (x, w) }}
      >
    }}
    """


def random_feeds(*shape: int, n: int = 6, name: str = "x") -> list[dict[str, np.ndarray]]:
    """`n` feeds of the input `name`, normal and the same in each call."""
    rng = np.random.default_rng(1)
    return [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(n)]


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs on onnxruntime, after onnx's checker has passed the model."""
    data = serialize.to_bytes(model)
    onnx.checker.check_model(data)
    outputs: list[np.ndarray] = session(exactly(data)).run(None, feeds)
    return outputs


def kernels(model: ir.Model, folder: Path) -> Counter[str]:
    """How many nodes of each operator onnxruntime's optimizer leaves: what really runs."""
    session(model, written=folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def op_types(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator the model has, in all scopes."""
    return Counter(node.op_type for node in graph.all_nodes(model))


def relative_error(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Root mean square of the difference over that of the reference."""
    return float(np.sqrt(np.mean((reference - candidate) ** 2)) / np.sqrt(np.mean(reference**2)))


def exactly(content: bytes) -> bytes:
    """A serialized model that computes the same, and whose products do not saturate, whatever the machine."""
    twin = serialize.from_bytes(content)
    exact.unsigned_weights(twin)
    return serialize.to_bytes(twin)
