"""What one request of a child process may take: too much is refused, and the child lives on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from modelopt.core.errors import ModeloptError, Refused
from modelopt.runtime.limits import FREE_BYTES, Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from tests.command_line import save, save_endless, value

pytestmark = pytest.mark.usefixtures("started_children")


def _expanding(folder: Path) -> Path:
    """A model whose input says how large its value is."""
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["a"]),
        helper.make_node("ReduceSum", ["a"], ["y"], keepdims=0),
    ]
    return save(folder / "m.onnx", nodes, [value("s", [1], TensorProto.INT64)], [value("y", [])])


def test_an_allocation_beyond_the_limit_is_refused_and_the_child_lives_on(tmp_path: Path) -> None:
    path = _expanding(tmp_path)
    with Worker(Limits(2**40, 600, is_default=True).for_model(path.stat().st_size)) as worker:
        session = worker.open(path, SessionSpec(threads=1))
        before = worker.peak_bytes()
        with pytest.raises(ModeloptError):
            session.run({"s": np.array([2**30], np.int64)})
        assert worker.peak_bytes() - before < FREE_BYTES
        assert session.run({"s": np.array([10], np.int64)}) == [0.0]


def test_a_limit_of_the_user_is_the_only_one(tmp_path: Path) -> None:
    limits = Limits(2**40, 600).for_model(100)
    assert limits.growth(100) is None


def test_a_run_that_takes_too_long_ends_and_the_child_lives_on(tmp_path: Path) -> None:
    path = save_endless(tmp_path / "endless.onnx")
    with Worker(Limits(2**40, 600)) as worker:
        session = worker.open(path, SessionSpec(threads=1))
        with pytest.raises(Refused) as caught:
            session.run({"x": np.ones(1, np.float32)}, seconds=0.1)
        assert "took longer" in str(caught.value.note)
        assert worker.versions()


def test_known_values_raise_the_limit_as_far_as_the_models_size_explains_them() -> None:
    limits = Limits(2**40, 600, is_default=True)
    assert limits.for_model(2**20).request_bytes == 8 * 2**20 + 2**30
    assert limits.for_model(2**28, 10 * 2**30).request_bytes == 10 * 2**30
    assert limits.for_model(200, 10 * 2**30).request_bytes == 8 * 200 + 2**30
