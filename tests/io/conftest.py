"""A model to write and a folder to write it to."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelopt import io
from tests.helpers import big_model
from tests.io_tools import load, model_file


@pytest.fixture
def source(tmp_path: Path) -> io.Loaded:
    """A model without external data, in a folder of its own."""
    (tmp_path / "in").mkdir()
    return load(model_file(tmp_path / "in", big_model()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where outputs go."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"
