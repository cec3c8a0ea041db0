"""Accuracy and comparison of real tiny models, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from modelopt.core.errors import InputError
from modelopt.data.dataset import Dataset, Sample
from modelopt.measure.evaluate import Accuracy, evaluate, score
from modelopt.measure.reference import Reference
from modelopt.measure.registry import parse_all
from modelopt.measure.stability import REPEATS
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session

N_CLASSES = 4
ONE_THREAD = SessionSpec(threads=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows(Dataset):
    """One-hot rows, each labelled with its class."""

    labels: np.ndarray | None
    n: int = 8

    def __len__(self) -> int:
        return self.n

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        for index in indices:
            feeds = {"x": np.eye(N_CLASSES, dtype=np.float32)[[index % N_CLASSES]]}
            yield Sample(feeds, None if self.labels is None else self.labels[[index]], f"rows[{index}]")

    def digest(self) -> str:
        return "rows"


def rows(labels: np.ndarray | None = None, n: int = 8) -> Rows:
    return Rows(source="rows", has_labels=labels is not None, labels=labels, n=n)


def scaling(path: Path, factors: list[float], *, input_name: str = "x", outputs: tuple[str, ...] = ("y",)) -> Path:
    """The first output is x times `factors`, class by class; the second x divided by them."""
    operators = ("Mul", "Div")
    graph = helper.make_graph(
        [helper.make_node(op, [input_name, "f"], [name]) for op, name in zip(operators, outputs, strict=False)],
        "g",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["n", N_CLASSES])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", N_CLASSES]) for name in outputs],
        [helper.make_tensor("f", TensorProto.FLOAT, [N_CLASSES], factors)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return scaling(tmp_path / "good.onnx", [1, 1, 1, 1])


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Wrong for class 3, whose score is negative."""
    return scaling(tmp_path / "bad.onnx", [1, 1, 1, -1])


CLASSES = np.arange(8) % N_CLASSES


def test_a_loss_of_accuracy_is_measured_and_paired(good: Path, bad: Path) -> None:
    told: list[int] = []
    found = evaluate(good, bad, rows(CLASSES), ONE_THREAD, progress=lambda _what, done, _total: told.append(done))
    (task,) = found.tasks
    assert (found.n, task.reference.value, task.candidate.value, task.fall) == (8, 1.0, 0.75, 0.25)
    assert found.outputs == ()  # the labels decide
    scores = {score.name: score.value for score in found.fidelity}
    assert scores["cosine"] == pytest.approx(0.5)
    assert scores["max-abs-error"] == 2
    assert told == list(range(1, 9))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Accuracy) == found


def test_without_labels_there_is_only_fidelity(good: Path) -> None:
    found = evaluate(good, good, rows(), ONE_THREAD)
    assert (found.tasks, found.notes) == ((), ())
    assert [(each.output, each.drop) for each in found.outputs] == [("y", 0.0)]
    assert next(score for score in found.fidelity if score.name == "sqnr").note == "exact"


def test_labels_that_are_not_classes_are_said_to_be_unused(good: Path) -> None:
    found = evaluate(good, good, rows(CLASSES * 0.5), ONE_THREAD)
    assert found.tasks == ()
    assert "not class numbers" in found.notes[0]


def test_outputs_are_matched_by_name(tmp_path: Path) -> None:
    two = scaling(tmp_path / "a.onnx", [2, 2, 2, 2], outputs=("p", "q"))
    model = _model(two)
    model.graph.outputs.reverse()
    swapped = tmp_path / "b.onnx"
    swapped.write_bytes(ir.to_proto(model).SerializeToString())
    found = evaluate(two, swapped, rows(), ONE_THREAD, metrics=["max-abs-error"])
    assert [score.value for score in found.fidelity] == [0.0]


def test_what_cannot_be_compared(tmp_path: Path, good: Path) -> None:
    with pytest.raises(InputError, match="different inputs"):
        evaluate(good, scaling(tmp_path / "z.onnx", [1] * 4, input_name="z"), rows(), ONE_THREAD)
    with pytest.raises(InputError, match="1 and 2 outputs"):
        evaluate(good, scaling(tmp_path / "two.onnx", [1] * 4, outputs=("y", "z")), rows(), ONE_THREAD)
    with pytest.raises(InputError, match="no sample"):
        evaluate(good, good, rows(n=0), ONE_THREAD)
    with pytest.raises(InputError, match="unknown metric"):
        evaluate(good, good, rows(), ONE_THREAD, metrics=["topp1"])
    with pytest.raises(InputError, match=r"rows\[0\]: top5 needs labels"):
        evaluate(good, good, rows(), ONE_THREAD, metrics=["top5"])


def _model(path: Path) -> ir.Model:
    return ir.from_proto(onnx.load_model_from_string(path.read_bytes()))


def test_a_model_alone_runs_once_on_each_sample(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[float] = []
    run = Session.run

    def counted(self: Session, feeds: dict[str, np.ndarray], *rest: Any) -> list[np.ndarray]:
        runs.append(float(feeds["x"].argmax()))
        return run(self, feeds, *rest)

    monkeypatch.setattr(Session, "run", counted)
    with Worker() as worker:
        found = score(Reference(worker.open(good, ONE_THREAD), rows(CLASSES)), None, parse_all(()))
    assert [task.reference.value for task in found.tasks] == [1.0]
    assert runs == [0.0, *[0.0] * REPEATS, *CLASSES[1:].tolist()]  # the first sample again, to see that answers repeat
