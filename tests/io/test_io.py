"""Files: what the gate lets in, what it refuses by name, and outputs that are whole or not there."""

from __future__ import annotations

import errno
import io as streams
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from modelopt import graph, io
from modelopt.core.errors import EnvironmentLacks, InputError, ModeloptError, Refused
from modelopt.io import serialize, staging
from tests.helpers import big_model, body, info, model_of, weight
from tests.paths import ROOT, SAMPLE_MODELS

SAMPLE = SAMPLE_MODELS / "digits_cnn" / "model.onnx"


def _load(path: Path, *, allow_hardlinks: bool = False) -> io.Loaded:
    return io.load(path, scratch=path.parent, allow_hardlinks=allow_hardlinks)


def _file(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def _adding(tensor: TensorProto) -> onnx.ModelProto:
    return model_of([helper.make_node("Add", ["x", tensor.name], ["y"])], initializers=[tensor])


def _external(
    location: str, entries: Mapping[str, object] | None = None, *, dims: Iterable[int] = (1000,)
) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **(entries or {})}.items():
        tensor.external_data.add(key=key, value=str(value))
    return _adding(tensor)


def _w(loaded: io.Loaded) -> np.ndarray:
    found = graph.constant(loaded.model.graph.initializers["w"])
    assert found is not None
    return found


# What is a model


def test_a_loaded_model_says_what_it_is(tmp_path: Path) -> None:
    path = _file(tmp_path, big_model())

    loaded = _load(path)

    assert (loaded.path, loaded.shown, loaded.has_external_data) == (path, str(path), False)
    assert loaded.size_bytes == path.stat().st_size
    assert len(loaded.sha256) == 64


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "is empty"),
        (b"hello, world\n" * 9, "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40), "not an ONNX model"),
        (b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(40), "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an ONNX model"),
        (b"\x08\x07", "is not an ONNX model"),
        (np.random.default_rng(1).bytes(5000), "not an ONNX model"),
    ],
    ids=["empty", "text", "png", "zip", "git-lfs pointer", "no graph", "random"],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=fact):
        _load(path)


def test_a_truncated_model_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = SAMPLE.read_bytes()
    for length in range(1, len(data), len(data) // 150):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            _load(path)


def test_mutated_models_load_or_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    original = big_model().SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(400):
        data = bytearray(original)
        for position in rng.integers(0, len(data), size=2):
            data[position] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            loaded = _load(path)
            io.write(loaded.model, tmp_path / "again.onnx")
            (tmp_path / "again.onnx").unlink()
        except ModeloptError:
            refused += 1
    assert 20 < refused < 380


def test_a_missing_model_is_named_and_a_near_one_suggested(tmp_path: Path) -> None:
    _file(tmp_path, big_model(), "resnet.onnx")
    with pytest.raises(InputError, match=r"resnt\.onnx does not exist") as caught:
        _load(tmp_path / "resnt.onnx")
    assert caught.value.hint == "did you mean 'resnet.onnx'?"


def test_a_folder_is_refused_and_the_model_in_it_suggested(tmp_path: Path) -> None:
    path = _file(tmp_path, big_model())
    with pytest.raises(InputError, match="is a directory, not a model") as caught:
        _load(tmp_path)
    assert caught.value.hint == f"did you mean '{path}'?"


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(InputError, match="is not a regular file") as caught:
        _load(tmp_path / "model.onnx")
    assert caught.value.hint == "use - to read a model from stdin"


def test_an_unreadable_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, big_model())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root can read anything
    with pytest.raises(InputError, match="cannot be read") as caught:
        _load(path)
    assert caught.value.note == "permission denied"


# What modelopt would lose


def _map_type() -> onnx.TypeProto:
    return helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))


def _with_sparse_initializer() -> onnx.ModelProto:
    model = big_model()
    model.graph.sparse_initializer.add().values.name = "s"
    return model


def _with_sparse_initializer_in_a_body() -> onnx.ModelProto:
    model = big_model()
    model.graph.node[1].attribute[0].g.sparse_initializer.add().values.name = "s"
    return model


def _with_training_info() -> onnx.ModelProto:
    model = big_model()
    model.training_info.add().algorithm.name = "t"
    return model


def _with_sparse_attribute() -> onnx.ModelProto:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [2]),
        [4],
    )
    return model_of([helper.make_node("Constant", [], ["y"], sparse_value=sparse)])


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (_with_sparse_initializer(), "holds sparse initializers"),
        (_with_sparse_initializer_in_a_body(), "holds sparse initializers"),
        (_with_training_info(), "holds training information"),
        (_with_sparse_attribute(), "holds a sparse tensor: the attribute 'sparse_value'"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(tmp_path: Path, model: onnx.ModelProto, fact: str) -> None:
    with pytest.raises(Refused, match=fact):
        _load(_file(tmp_path, model))


def test_an_attribute_without_a_type_is_refused(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Elu", ["x"], ["y"], alpha=1.0)])
    model.graph.node[0].attribute[0].ClearField("type")  # onnx_ir drops its value
    with pytest.raises(Refused, match=r"an attribute without a type.*: 'alpha'"):
        _load(_file(tmp_path, model))


# Maps


def _with_maps() -> onnx.ModelProto:
    """Map types wherever a type can stand: an output, a value, a function's value, an attribute."""
    zipmap = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_strings=list("abcd"))
    same = helper.make_node("Identity", ["z"], ["same"])
    optional = helper.make_node("Optional", [], ["o"], type=helper.make_sequence_type_proto(_map_type()))
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    function.value_info.add(name="b").type.CopyFrom(helper.make_optional_type_proto(_map_type()))
    call = helper.make_node("F", ["x"], ["y"], domain="local")
    model = model_of([zipmap, same, optional, call], functions=[function], domains=["local", "ai.onnx.ml"])
    strings = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    strings.denotation = "PROBABILITIES"
    model.graph.value_info.add(name="z").type.CopyFrom(helper.make_sequence_type_proto(strings))
    model.graph.output.add(name="same").type.CopyFrom(helper.make_sequence_type_proto(strings))
    return model


def test_map_types_pass_through(tmp_path: Path) -> None:
    model = _with_maps()
    loaded = _load(_file(tmp_path, model)).model
    assert [spec.dtype for spec in graph.signature(loaded).outputs] == ["float32", "seq(map(string,tensor(float)))"]
    written = onnx.ModelProto.FromString(serialize.to_bytes(loaded))
    values = {value.name: value.type for value in (*written.graph.output, *written.graph.value_info)}
    assert values["same"] == model.graph.output[1].type
    assert values["z"] == model.graph.value_info[0].type
    assert written.functions[0].value_info[0].type == model.functions[0].value_info[0].type
    assert written.graph.node[2].attribute[0].tp == model.graph.node[2].attribute[0].tp
    assert b"modelopt:map" not in written.SerializeToString()


@pytest.mark.parametrize(
    ("key", "element", "denotation", "note"),
    [
        (TensorProto.FLOAT, TensorProto.FLOAT, "", "the output 'z' is a map whose keys are no integers or strings"),
        (TensorProto.INT64, 777, "", "the output 'z' has the element type 777, which ONNX does not know"),
        (TensorProto.INT64, TensorProto.FLOAT, "modelopt:map:7:", "the output 'z' has a denotation"),
    ],
)
def test_a_hostile_map_type_is_refused(tmp_path: Path, key: int, element: int, denotation: str, note: str) -> None:
    model = big_model()
    type_ = model.graph.output.add(name="z").type
    type_.CopyFrom(helper.make_sequence_type_proto(_map_type()))
    type_.sequence_type.elem_type.map_type.key_type = key
    type_.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = element
    type_.denotation = denotation
    with pytest.raises(InputError) as caught:
        _load(_file(tmp_path, model))
    assert note in (caught.value.note or "")


# Element types


def _typed(number: int, place: str) -> onnx.ModelProto:
    """A model that states the element type `number` in one place."""
    model = big_model()
    inner = model.graph.node[1].attribute[0].g
    scope = inner if place.startswith("body") else model.graph
    kind = place.split()[-1]
    if kind in {"input", "output", "value_info"}:
        values = getattr(scope, kind)
        value = values[0] if values else values.add(name="v")
        value.type.tensor_type.elem_type = number
    elif kind == "sequence":
        tensor = model.graph.value_info.add(name="v").type.sequence_type.elem_type.tensor_type
        tensor.elem_type = number
    elif kind == "sparse":
        model.graph.input[0].type.sparse_tensor_type.elem_type = number
    elif kind == "function":
        model.functions[0].value_info.add(name="v").type.tensor_type.elem_type = number
    elif kind == "initializer":
        model.graph.initializer[0].data_type = number
    elif kind == "type":
        type_ = helper.make_tensor_type_proto(number, [])
        model.graph.node.append(helper.make_node("Optional", [], ["o"], type=type_))
    else:
        node = helper.make_node("Cast" if kind == "to" else "EyeLike", ["x"], ["o"])
        node.attribute.append(helper.make_attribute(kind, number))
        inner.node.append(node)
    return model


_PLACES = ("input", "output", "value_info", "body output", "body value_info", "sequence", "sparse", "initializer")


@pytest.mark.parametrize("number", [0, 99, -5])
@pytest.mark.parametrize("place", [*_PLACES, "type", "body to", "body dtype"])
def test_an_element_type_that_is_none_is_refused(tmp_path: Path, place: str, number: int) -> None:
    with pytest.raises(InputError, match="is not a valid model") as caught:
        _load(_file(tmp_path, _typed(number, place)))
    assert "type" in str(caught.value.note)
    assert caught.value.hint is not None or place == "initializer"


def test_a_function_may_leave_an_element_type_open(tmp_path: Path) -> None:
    assert _load(_file(tmp_path, _typed(TensorProto.UNDEFINED, "function"))).size_bytes > 0
    with pytest.raises(InputError, match="is not a valid model") as caught:
        _load(_file(tmp_path, _typed(99, "function")))
    assert "the value 'v' of the function" in str(caught.value.note)


def test_another_domain_may_call_anything_a_dtype(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Mine", ["x"], ["y"], domain="acme", dtype=99)])
    model.opset_import.add(domain="acme", version=1)
    assert _load(_file(tmp_path, model)).size_bytes > 0


# Tensors


def _constant(tensor: TensorProto) -> onnx.ModelProto:
    return model_of([helper.make_node("Constant", [], ["y"], value=tensor)])


@pytest.mark.parametrize("place", [_adding, _constant])
@pytest.mark.parametrize(
    ("tensor", "note"),
    [
        (TensorProto(name="w", data_type=1, dims=[-2], float_data=[1.0]), "has a negative dimension"),
        (TensorProto(name="w", data_type=1, dims=[-50, -50], raw_data=bytes(10_000)), "has a negative dimension"),
        (TensorProto(name="w", data_type=99, dims=[2], raw_data=bytes(8)), "has no known type"),
        (TensorProto(name="w", data_type=0, dims=[500], raw_data=bytes(2000)), "has no known type"),
        (TensorProto(name="w", dims=[2], raw_data=bytes(8)), "has no known type"),
        (
            TensorProto(name="w", data_type=1, dims=[3], raw_data=bytes(8)),
            "holds 8 bytes where its shape and type need 12",
        ),
        (TensorProto(name="w", data_type=1, dims=[3], float_data=[1, 2]), "holds 2 values where its .* need 3"),
        (TensorProto(name="w", data_type=1, dims=[3], int32_data=[1, 2, 3]), "holds 0 values where its .* need 3"),
        (TensorProto(name="w", data_type=14, dims=[3], float_data=[1, 2, 3]), "holds 3 values where its .* need 6"),
        (TensorProto(name="w", data_type=22, dims=[3], raw_data=b"1"), "holds 1 bytes where its .* need 2"),
        (TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]), "holds 1 strings where its .* need 2"),
        (TensorProto(name="w", data_type=1, dims=[2**62, 2**62]), "holds 0 values where"),
    ],
)
def test_tensors_hold_what_they_declare(tmp_path: Path, tensor: TensorProto, note: str, place: object) -> None:
    assert callable(place)
    with pytest.raises(InputError, match="is not a valid model") as caught:
        _load(_file(tmp_path, place(tensor)))
    assert caught.value.note is not None
    assert caught.value.note.startswith("the tensor 'w' ")
    with pytest.raises(ValueError, match=note):
        raise ValueError(caught.value.note)


def test_large_tensors_hold_what_they_declare(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=1, dims=[1001], raw_data=bytes(4000))
    with pytest.raises(InputError, match="'w' holds 4000 bytes where its shape and type need 4004"):
        _load(_file(tmp_path, _adding(tensor)))


@pytest.mark.parametrize("number", sorted(set(TensorProto.DataType.values()) - {0, 8, 24}))
@pytest.mark.parametrize("count", [0, 1, 5])
def test_typed_fields_of_every_type_are_counted_right(tmp_path: Path, number: int, count: int) -> None:
    tensor = helper.make_tensor("w", number, [count], [1.0] * count)
    assert _w(_load(_file(tmp_path, _adding(tensor)))).shape == (count,)


def test_a_model_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a valid model") as caught:
        _load(_file(tmp_path, model_of([helper.make_node("Relu", ["nowhere"], ["y"])])))
    assert caught.value.note == "y (Relu): uses 'nowhere' before it exists"


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(big_model().SerializeToString().replace(b"scalar", b"sc\xff\xfear"))
    with pytest.raises(InputError, match="not a valid ONNX model") as caught:
        _load(path)
    assert caught.value.note == "'onnx.TensorProto.name' is not UTF-8"


# External data

W = np.arange(1000, dtype=np.float32)


def test_external_data_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(64) + W.tobytes())

    loaded = _load(_file(tmp_path, _external("w.bin", {"offset": 64, "length": 4000})))

    assert np.array_equal(_w(loaded), W)
    assert loaded.has_external_data
    assert loaded.size_bytes == loaded.path.stat().st_size + 4064


def test_external_data_may_lie_in_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(W.tobytes())
    assert np.array_equal(_w(_load(_file(tmp_path, _external("data/w.bin")))), W)


def test_tensors_may_share_a_range_of_a_data_file(tmp_path: Path) -> None:
    model = _external("w.bin", {"length": 4000})
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.graph.initializer[1].name = "v"
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    loaded = _load(_file(tmp_path, model))
    twin = graph.constant(loaded.model.graph.initializers["v"])
    assert twin is not None
    assert np.shares_memory(_w(loaded), twin)
    assert loaded.size_bytes == loaded.path.stat().st_size + 4000


def test_an_empty_tensor_needs_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"")
    assert _w(_load(_file(tmp_path, _external("w.bin", {"offset": 0, "length": 0}, dims=[0])))).shape == (0,)


def test_external_data_in_lists_and_functions_pass_the_same_checks(tmp_path: Path) -> None:
    tensor = _external("../secret").graph.initializer[0]
    listed = model_of([helper.make_node("Custom", ["x"], ["y"], tensors=[tensor])])
    default = big_model()
    default.functions[0].attribute_proto.append(helper.make_attribute("table", tensor))
    for model in (listed, default):
        with pytest.raises(Refused, match="outside the model's folder"):
            _load(_file(tmp_path, model))


@pytest.mark.parametrize(
    "location", ["../w.bin", "a/../../w.bin", "/etc/passwd", "", "..\\w.bin", "w\0.bin", "a/../w.bin"]
)
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner" / "a").mkdir(parents=True)
    with pytest.raises(Refused, match="is outside the model's folder"):
        _load(_file(tmp_path / "inner", _external(location)))


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(Refused, match="leads outside") as caught:
        _load(_file(tmp_path / "inner", _external("w.bin")))
    assert caught.value.note == f"it is {tmp_path / 'w.bin'}"


def test_a_link_to_a_folder_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to("..")
    with pytest.raises(Refused, match="leads outside"):
        _load(_file(tmp_path / "inner", _external("up/w.bin")))


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").symlink_to("w.bin")
    with pytest.raises(InputError, match="cannot be read"):
        _load(_file(tmp_path, _external("w.bin")))


def test_the_layout_of_a_download_cache_works(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    _file(blobs, _external("model.onnx_data"), "aaa")
    (blobs / "bbb").write_bytes(W.tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "model.onnx_data").symlink_to("../../blobs/bbb")

    assert np.array_equal(_w(_load(snapshot / "model.onnx")), W)


def test_a_hardlink_needs_consent(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    os.link(tmp_path / "w.bin", tmp_path / "other")
    path = _file(tmp_path, _external("w.bin"))

    with pytest.raises(Refused, match="it is a hardlink") as caught:
        _load(path)
    assert caught.value.hint == "--allow-hardlinks"
    assert np.array_equal(_w(_load(path, allow_hardlinks=True)), W)


def test_a_fifo_as_data_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(InputError, match="not a regular file"):
        _load(_file(tmp_path, _external("w.bin")))


@pytest.mark.parametrize("location", ["folder", ".", "folder/."])
def test_a_folder_as_data_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        _load(_file(tmp_path, _external(location)))


@pytest.mark.parametrize("location", ["w.bin", "model.onnx/w.bin", "n" * 5000])
def test_missing_data_are_refused(tmp_path: Path, location: str) -> None:
    with pytest.raises(InputError, match=r"data file .* does not exist|cannot be read") as caught:
        _load(_file(tmp_path, _external(location)))
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
        _load(_file(tmp_path, _external("w.bin", entries)))


def test_a_truncated_data_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes()[:100])
    with pytest.raises(InputError, match=r"'w' lies outside its data file w\.bin") as caught:
        _load(_file(tmp_path, _external("w.bin")))
    assert caught.value.note == "bytes 0 to 4000 of 100"
    assert caught.value.hint == "the data file is truncated or belongs to another model"


def test_entries_that_onnx_does_not_know_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    assert np.array_equal(_w(_load(_file(tmp_path, _external("w.bin", {"unheard": "of"})))), W)


# Stdin and stdout


class _Pipe:
    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self.buffer = streams.BytesIO(data)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_stdin_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SAMPLE.read_bytes()
    monkeypatch.setattr(sys, "stdin", _Pipe(data))

    loaded = io.load(io.STDIO, scratch=tmp_path)

    assert loaded.shown == "<stdin>"
    assert loaded.path.read_bytes() == data
    assert loaded.path.parent == tmp_path


def test_nothing_on_stdin_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Pipe())
    with pytest.raises(InputError, match="<stdin> is empty") as caught:
        io.load(io.STDIO, scratch=tmp_path)
    assert caught.value.hint == "an earlier command in a pipeline may have failed"


def test_a_terminal_on_stdin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Pipe(terminal=True))
    with pytest.raises(InputError, match="stdin is a terminal"):
        io.load(io.STDIO, scratch=tmp_path)


def test_weights_in_another_file_do_not_come_through_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Pipe(_external("w.bin").SerializeToString()))
    with pytest.raises(Refused, match="keeps its weights in another file"):
        io.load(io.STDIO, scratch=tmp_path)


def test_stdout_receives_the_model_at_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _load(SAMPLE)
    pipe = _Pipe()
    monkeypatch.setattr(sys, "stdout", pipe)

    with io.staged(source.model, io.STDIO, source=source, unchanged=True) as staged:
        assert not pipe.buffer.getvalue()
        staged.commit()

    assert pipe.buffer.getvalue() == SAMPLE.read_bytes()
    assert not staged.path.exists()


# Writing


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def source(tmp_path: Path) -> io.Loaded:
    """A model without external data, in a folder of its own."""
    (tmp_path / "in").mkdir()
    return _load(_file(tmp_path / "in", big_model()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where outputs go."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def _external_source(tmp_path: Path, seed: int = 0) -> io.Loaded:
    folder = tmp_path / f"in{seed}"
    folder.mkdir()
    (folder / "w.bin").write_bytes((W + seed).tobytes())
    return _load(_file(folder, _external("w.bin")))


def _save(source: io.Loaded, output: Path, *, unchanged: bool = False) -> None:
    """Write a model; one that has a data file gets one again."""
    where = io.ExternalData.ALWAYS if source.has_external_data else io.ExternalData.AUTO
    with io.staged(source.model, output, source=source, unchanged=unchanged, external_data=where) as staged:
        staged.commit()


def test_a_staged_model_loads_before_it_has_its_name(source: io.Loaded, folder: Path) -> None:
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False) as staged:
        assert not (folder / "m.onnx").exists()
        assert np.array_equal(_w(_load(staged.path)), _w(source))
        assert staged.size_bytes == staged.path.stat().st_size
        staged.commit()
    assert _names(folder) == ["m.onnx"]


def test_without_changes_the_bytes_are_copied(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.onnx"
    odd.write_bytes(SAMPLE.read_bytes() + b"\xf2\xff\x03\x00")  # an unknown field at the end
    _save(_load(odd), folder / "m.onnx", unchanged=True)
    assert (folder / "m.onnx").read_bytes() == odd.read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, GeneratorExit])
def test_an_interruption_keeps_the_old_output(source: io.Loaded, folder: Path, error: type[BaseException]) -> None:
    (folder / "m.onnx").write_bytes(b"old")
    with pytest.raises(error), io.staged(source.model, folder / "m.onnx", source=source, unchanged=False):
        raise error
    assert (folder / "m.onnx").read_bytes() == b"old"
    assert _names(folder) == ["m.onnx"]


def test_without_commit_nothing_remains(source: io.Loaded, folder: Path) -> None:
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False):
        pass
    assert _names(folder) == []


@pytest.mark.parametrize("failing_write", [0, 1])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    external = _external_source(tmp_path)
    (folder / "m.onnx").write_bytes(b"old")
    real = os.fsync
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > failing_write:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EnvironmentLacks, match="no room to write") as caught:
        _save(external, folder / "m.onnx")
    assert caught.value.note == "No space left on device"
    assert _names(folder) == ["m.onnx"]
    assert (folder / "m.onnx").read_bytes() == b"old"


def test_a_limit_on_file_sizes_is_a_full_disk(source: io.Loaded, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelopt import io; from modelopt.core import errors\n"
        "source = io.load(Path(sys.argv[1]), scratch=Path('.'))\n"
        "try:\n"
        "    with io.staged(source.model, Path(sys.argv[2]), source=source, unchanged=False): pass\n"
        "except errors.EnvironmentLacks as error: print(error.note)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(source.path), str(folder / "m.onnx")],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert answer.stdout == "File too large\n", answer.stderr
    assert _names(folder) == []


def test_outputs_have_the_permissions_of_any_new_file(source: io.Loaded, folder: Path) -> None:
    old = os.umask(0o027)
    try:
        _save(source, folder / "m.onnx")
        _save(_load(folder / "m.onnx"), folder / "copy.onnx", unchanged=True)
    finally:
        os.umask(old)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_output_that_is_a_link_stays_one(source: io.Loaded, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (folder / "m.onnx").symlink_to(tmp_path / "real" / "target.onnx")

    _save(source, folder / "m.onnx")  # it leads nowhere yet
    _save(source, folder / "m.onnx")

    assert (folder / "m.onnx").is_symlink()
    assert _names(tmp_path / "real") == ["target.onnx"]
    assert np.array_equal(_w(_load(tmp_path / "real" / "target.onnx")), _w(source))


def test_outputs_that_cannot_be_are_refused(source: io.Loaded, folder: Path) -> None:
    (folder / "loop.onnx").symlink_to("loop.onnx")
    os.mkfifo(folder / "fifo")
    before = _names(folder)
    for output, fact in (
        (folder, "is a directory"),
        (folder / "missing" / "m.onnx", "missing does not exist"),
        (folder / "loop.onnx", "cannot be written to"),
        (folder / "fifo", "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
        (folder / f"{'n' * 250}.onnx", "cannot be written to"),
        (source.path / "m.onnx", r"cannot be written to|does not exist"),
    ):
        with pytest.raises(InputError, match=fact):
            _save(source, output)
    assert _names(folder) == before


def test_a_folder_without_permission_is_refused(
    source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)  # root may write anywhere
    with pytest.raises(InputError, match="out cannot be written to") as caught:
        _save(source, folder / "m.onnx")
    assert caught.value.note == "Permission denied"


# Data files beside outputs


def _data(folder: Path) -> list[str]:
    return [name for name in _names(folder) if name.endswith(".data")]


def test_external_data_go_to_a_file_named_by_its_content(tmp_path: Path, folder: Path) -> None:
    _save(_external_source(tmp_path), folder / "m.onnx")

    (data,) = _data(folder)
    assert _names(folder) == ["m.onnx", data]
    assert data.startswith("m.onnx.")
    assert np.array_equal(_w(_load(folder / "m.onnx")), W)

    _save(_external_source(tmp_path, 1), folder / "other.onnx")
    assert len({name.removeprefix("m.onnx.").removeprefix("other.onnx.") for name in _data(folder)}) == 2


@pytest.mark.parametrize("unchanged", [False, True])
def test_weights_come_into_the_model_file_where_they_fit(tmp_path: Path, folder: Path, unchanged: bool) -> None:
    source = _external_source(tmp_path)
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=unchanged) as staged:
        staged.commit()
    assert _names(folder) == ["m.onnx"]
    loaded = _load(folder / "m.onnx")
    assert not loaded.has_external_data
    assert np.array_equal(_w(loaded), W)


def test_a_model_too_large_for_one_file_is_refused_where_one_is_asked_for(
    source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 1000)
    never = io.ExternalData.NEVER
    with (
        pytest.raises(Refused, match="does not fit into one file"),
        io.staged(source.model, folder / "m.onnx", source=source, unchanged=False, external_data=never),
    ):
        pass
    assert _names(folder) == []


def test_a_model_with_strings_and_external_data_is_written(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    model = _external("w.bin")
    model.graph.initializer.append(
        TensorProto(name="names", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b" * 2000])
    )
    _save(_load(_file(tmp_path, model)), folder / "m.onnx")

    again = onnx.load(folder / "m.onnx", load_external_data=False)
    assert again.graph.initializer[1].string_data == [b"a", b"b" * 2000]


def test_a_replaced_output_takes_its_data_file_with_it(tmp_path: Path, folder: Path) -> None:
    _save(_external_source(tmp_path), folder / "m.onnx")
    (old,) = _data(folder)
    unrelated = folder / "m.onnx.0123456789ab.data"
    unrelated.write_bytes(b"named like ours, but the old output does not use it")

    _save(_external_source(tmp_path, 1), folder / "m.onnx")

    assert old not in _data(folder)
    assert len(_data(folder)) == 2
    assert unrelated.exists()
    assert np.array_equal(_w(_load(folder / "m.onnx")), W + 1)


def test_a_replaced_output_without_external_data_takes_the_old_data_with_it(
    tmp_path: Path, folder: Path, source: io.Loaded
) -> None:
    _save(_external_source(tmp_path), folder / "m.onnx")
    _save(source, folder / "m.onnx")
    assert _names(folder) == ["m.onnx"]


def test_a_data_file_stays_while_another_model_uses_it(tmp_path: Path, folder: Path) -> None:
    _save(_external_source(tmp_path), folder / "m.onnx")
    (folder / "copy.onnx").write_bytes((folder / "m.onnx").read_bytes())
    _save(_external_source(tmp_path, 1), folder / "m.onnx")
    assert np.array_equal(_w(_load(folder / "copy.onnx")), W)


def test_the_input_keeps_its_data_whatever_it_is_called(tmp_path: Path, folder: Path) -> None:
    _save(_external_source(tmp_path), folder / "m.onnx")
    (folder / "copy").write_bytes((folder / "m.onnx").read_bytes())
    copy = _load(folder / "copy")
    initializer = copy.model.graph.initializers["w"]
    initializer.const_value = ir.tensor(W * 2, name="w")

    _save(copy, folder / "m.onnx")

    assert np.array_equal(_w(_load(folder / "copy")), W)
    assert np.array_equal(_w(_load(folder / "m.onnx")), W * 2)


def test_writing_the_same_again_never_breaks_what_is_there(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = _external_source(tmp_path)
    _save(external, folder / "m.onnx")
    before = _names(folder)

    _save(external, folder / "m.onnx")
    assert _names(folder) == before
    always = io.ExternalData.ALWAYS
    with io.staged(external.model, folder / "m.onnx", source=external, unchanged=True, external_data=always):
        pass  # not committed: the data file belongs to the old output
    assert _names(folder) == before

    def torn(_payloads: object) -> Iterable[bytes]:
        yield b"half of the"
        assert np.array_equal(_w(_load(folder / "m.onnx")), W)  # the old output is whole all the time
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "_aligned", torn)
    with pytest.raises(EnvironmentLacks):
        _save(external, folder / "m.onnx")
    assert _names(folder) == before
    assert np.array_equal(_w(_load(folder / "m.onnx")), W)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, folder: Path, source: io.Loaded) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from modelopt import io\n"
        "source = io.load(Path(sys.argv[1]), scratch=Path('.'))\n"
        "into = {'unchanged': False, 'external_data': io.ExternalData.ALWAYS}\n"
        "with io.staged(source.model, Path(sys.argv[2]), source=source, **into):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    victim = _external_source(tmp_path)
    _save(source, folder / "m.onnx")
    subprocess.run(
        [sys.executable, "-c", code, str(victim.path), str(folder / "m.onnx")],
        cwd=ROOT,
        check=False,
    )
    assert len(_names(folder)) == 3  # the old output, and what was staged: a model and its data
    assert np.array_equal(_w(_load(folder / "m.onnx")), _w(source))
    (folder / f".m.onnx.{os.getppid()}.tmp.onnx").write_bytes(b"of a process that runs")
    (folder / f".m.onnx.{os.getpid()}.tmp.onnx").write_bytes(b"of one that had our number")
    (folder / ".m.onnx.99999999999999999999.tmp.data").write_bytes(b"of no process at all")
    (folder / ".m.onnx.notes.tmp.onnx").write_bytes(b"not ours")

    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False) as staged:
        staged.commit()

    assert _names(folder) == [f".m.onnx.{os.getppid()}.tmp.onnx", ".m.onnx.notes.tmp.onnx", "m.onnx"]


def test_large_models_get_a_data_file(source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 10_000)
    _save(source, folder / "m.onnx")

    assert len(_data(folder)) == 1
    loaded = _load(folder / "m.onnx")
    assert loaded.has_external_data
    assert graph.weight_bytes(loaded.model) == graph.weight_bytes(source.model)
    assert not source.has_external_data
    monkeypatch.setattr(sys, "stdout", _Pipe())
    with pytest.raises(Refused, match="does not fit into one file"):
        _save(source, io.STDIO)


def test_a_candidate_of_many_weights_keeps_them_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = _load(
        _file(tmp_path, model_of([helper.make_node("Add", ["x", "w"], ["y"])], initializers=[weight("w", 500)]))
    )
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 1000)
    for _ in range(2):  # the second replaces the first
        io.remove_aside(tmp_path / "c.onnx")
        io.write_aside(loaded.model, tmp_path / "c.onnx")
    assert (tmp_path / "c.onnx.data").stat().st_size == 2000
    assert np.array_equal(_w(_load(tmp_path / "c.onnx")), _w(loaded))


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
    loaded = _load(_file(tmp_path, _external("w.bin", dims=[size // 4])))
    assert graph.weight_bytes(loaded.model) == size > io.MAX_INLINE_BYTES
    monkeypatch.setattr(staging, "write_chunks", _write_sparsely)

    _save(loaded, folder / "m.onnx")

    again = _w(_load(folder / "m.onnx"))
    assert again.nbytes == size
    assert (again[0].tobytes(), again[-1].tobytes()) == (b"\x01" * 4, b"\x02" * 4)
    assert (folder / "m.onnx").stat().st_size < 1000
    assert sum(path.stat().st_blocks for path in folder.iterdir()) * 512 < 1 << 20


# Paths


def test_the_same_file_by_other_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "c")
    assert io.same_file(tmp_path / "a", tmp_path / "b")
    assert io.same_file(tmp_path / "a", tmp_path / "c")
    assert not io.same_file(tmp_path / "a", tmp_path / "d")


def test_bodies_come_through_the_gate(tmp_path: Path) -> None:
    then = body([helper.make_node("Add", ["x", "k"], ["t"])], ["t"], initializers=[weight("k", 1000)])
    other = body([helper.make_node("Relu", ["x"], ["e"])], ["e"])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    model = model_of([node], outputs=["y"])
    model.graph.input.append(info("c", (), TensorProto.BOOL))
    assert graph.weight_bytes(_load(_file(tmp_path, model)).model) == 4000
