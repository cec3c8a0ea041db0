"""Large models: when a data file is written that nobody asked for, and a model above 2 GB."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from modelopt import graph, io
from modelopt.core.errors import Refused
from modelopt.io import staging
from tests.helpers import model_of, weight
from tests.io_tools import (
    Pipe,
    data_files_in,
    external,
    load,
    model_file,
    save,
    weight_of,
)


def test_large_models_get_a_data_file(source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 10_000)
    save(source, folder / "m.onnx")

    assert len(data_files_in(folder)) == 1
    loaded = load(folder / "m.onnx")
    assert loaded.has_external_data
    assert graph.weight_bytes(loaded.model) == graph.weight_bytes(source.model)
    assert not source.has_external_data
    monkeypatch.setattr(sys, "stdout", Pipe())
    with pytest.raises(Refused, match="does not fit into one file"):
        save(source, io.STDIO)


def test_a_candidate_of_many_weights_keeps_them_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(
        model_file(tmp_path, model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 500)]))
    )
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 1000)
    for _ in range(2):  # the second replaces the first
        io.remove_aside(tmp_path / "c.onnx")
        io.write_aside(loaded.model, tmp_path / "c.onnx")
    assert (tmp_path / "c.onnx.data").stat().st_size == 2000
    assert np.array_equal(weight_of(load(tmp_path / "c.onnx")), weight_of(loaded))


def _write_sparsely(path: Path, chunks: Iterable[bytes | memoryview], **_: object) -> None:
    with path.open("xb") as file:
        for chunk in chunks:
            if len(chunk) > 1 << 20:
                file.write(chunk[:8])
                file.seek(len(chunk) - 16, os.SEEK_CUR)
                file.write(chunk[-8:])
            else:
                file.write(chunk)


@pytest.mark.slow
def test_a_model_above_two_gigabytes_goes_in_and_out(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2**31 + 2**20
    with (tmp_path / "w.bin").open("wb") as file:  # a hole with a number at each end
        file.write(b"\x01" * 4)
        file.truncate(size - 4)
        file.seek(size - 4)
        file.write(b"\x02" * 4)
    loaded = load(model_file(tmp_path, external("w.bin", dims=[size // 4])))
    assert graph.weight_bytes(loaded.model) == size > io.MAX_INLINE_BYTES
    monkeypatch.setattr(staging, "write_chunks", _write_sparsely)

    save(loaded, folder / "m.onnx")

    again = weight_of(load(folder / "m.onnx"))
    assert again.nbytes == size
    assert (again[0].tobytes(), again[-1].tobytes()) == (b"\x01" * 4, b"\x02" * 4)
    assert (folder / "m.onnx").stat().st_size < 1000
    assert sum(path.stat().st_blocks for path in folder.iterdir()) * 512 < 1 << 20
