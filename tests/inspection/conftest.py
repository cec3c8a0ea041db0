"""Inspects a model as the command does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from modelopt import io
from modelopt.inspection import inspect
from modelopt.inspection.data import Inspection
from modelopt.runtime.worker_runner import WorkerRunner
from tests.inspection.model_texts import Inspect


@pytest.fixture
def look(tmp_path: Path, runner: WorkerRunner) -> Inspect:
    def look(model: onnx.ModelProto, **options: object) -> Inspection:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return inspect(io.load(path, scratch=tmp_path), runner, **options)  # type: ignore[arg-type]

    return look
