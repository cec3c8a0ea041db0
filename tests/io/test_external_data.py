"""External data: which files and ranges the gate accepts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from modelopt import graph, io
from modelopt.core.errors import InputError, Refused
from tests.helpers import big_model, model_of
from tests.io_tools import W, external, load, model_file, weight_of


def test_external_data_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64) + W.tobytes())

    loaded = load(model_file(tmp_path, external("w.bin", {"offset": 64, "length": 4000})))

    assert np.array_equal(weight_of(loaded), W)
    assert loaded.has_external_data
    assert loaded.size_bytes == loaded.path.stat().st_size + 4064


def test_external_data_may_lie_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(W.tobytes())
    assert np.array_equal(weight_of(load(model_file(tmp_path, external("data/w.bin")))), W)


def test_tensors_may_share_a_range_of_a_data_file(tmp_path: Path) -> None:
    model = external("w.bin", {"length": 4000})
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.graph.initializer[1].name = "v"
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    loaded = load(model_file(tmp_path, model))
    twin = graph.constant(loaded.model.graph.initializers["v"])
    assert twin is not None
    assert np.shares_memory(weight_of(loaded), twin)
    assert loaded.size_bytes == loaded.path.stat().st_size + 4000


def test_an_empty_tensor_needs_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"")
    assert weight_of(load(model_file(tmp_path, external("w.bin", {"offset": 0, "length": 0}, dims=[0])))).shape == (0,)


def test_external_data_in_lists_and_functions_pass_the_same_checks(tmp_path: Path) -> None:
    tensor = external("../secret").graph.initializer[0]
    listed = model_of([helper.make_node("Custom", ["x"], ["y"], tensors=[tensor])])
    default = big_model()
    default.functions[0].attribute_proto.append(helper.make_attribute("table", tensor))
    for model in (listed, default):
        with pytest.raises(Refused, match="outside the model's folder"):
            load(model_file(tmp_path, model))


@pytest.mark.parametrize(
    "location", ["../w.bin", "a/../../w.bin", "/etc/passwd", "", "..\\w.bin", "w\0.bin", "a/../w.bin"]
)
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner" / "a").mkdir(parents=True)
    with pytest.raises(Refused, match="is outside the model's folder"):
        load(model_file(tmp_path / "inner", external(location)))


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(Refused, match="leads outside") as caught:
        load(model_file(tmp_path / "inner", external("w.bin")))
    assert caught.value.note == f"it is {tmp_path / 'w.bin'}"


def test_a_link_to_a_folder_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to("..")
    with pytest.raises(Refused, match="leads outside"):
        load(model_file(tmp_path / "inner", external("up/w.bin")))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(InputError, match="cannot be read"):
        load(model_file(tmp_path, external("w.bin")))


def test_the_layout_of_a_download_cache_works(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    model_file(blobs, external("model.onnx_data"), "aaa")
    (blobs / "bbb").write_bytes(W.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bbb")

    assert np.array_equal(weight_of(load(snapshot / "model.onnx")), W)


def test_a_hardlink_needs_consent(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    os.link(tmp_path / "w.bin", tmp_path / "other")
    path = model_file(tmp_path, external("w.bin"))

    with pytest.raises(Refused, match="it is a hardlink") as caught:
        load(path)
    assert caught.value.hint == "--allow-hardlinks"
    assert np.array_equal(weight_of(load(path, accepted=io.Accepted(hardlinks=True))), W)


def test_a_fifo_as_data_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(InputError, match="not a regular file"):
        load(model_file(tmp_path, external("w.bin")))


@pytest.mark.parametrize("location", ["folder", ".", "folder/."])
def test_a_folder_as_data_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        load(model_file(tmp_path, external(location)))


@pytest.mark.parametrize("location", ["w.bin", "model.onnx/w.bin", "n" * 5000])
def test_missing_data_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(InputError, match=r"data file .* does not exist|cannot be read") as caught:
        load(model_file(tmp_path, external(location)))
    assert "did you mean" not in (caught.value.hint or "")  # the name is not the user's: the model stores it


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 4, "length": 4000},
        {"length": 4001},
        {"offset": 2**63, "length": 4000},
        {"offset": 4000},
        {"length": 3996},
        {"offset": -4, "length": 4000},
        {"offset": "x"},
        {"length": "9" * 5000},
    ],
    ids=str,
)
def test_ranges_outside_the_data_are_refused(tmp_path: Path, entries: dict[str, object]) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    with pytest.raises(InputError):
        load(model_file(tmp_path, external("w.bin", entries)))


def test_a_truncated_data_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes()[:100])
    with pytest.raises(InputError, match=r"'w' lies outside its data file w\.bin") as caught:
        load(model_file(tmp_path, external("w.bin")))
    assert caught.value.note == "bytes 0 to 4000 of 100"
    assert caught.value.hint == "the data file is truncated or belongs to another model"


def test_entries_that_onnx_does_not_know_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    assert np.array_equal(weight_of(load(model_file(tmp_path, external("w.bin", {"unheard": "of"})))), W)
