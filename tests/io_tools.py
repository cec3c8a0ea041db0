"""What the tests of reading and writing model files share."""

from __future__ import annotations

import io as streams
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from modelopt import graph, io
from tests.helpers import model_of
from tests.paths import SAMPLE_MODELS

SAMPLE = SAMPLE_MODELS / "digits_cnn" / "model.onnx"
W = np.arange(1000, dtype=np.float32)
_DEFAULT = io.Accepted()


def load(path: Path, *, accepted: io.Accepted = _DEFAULT) -> io.Loaded:
    """The model at `path` as the gate lets it in."""
    return io.load(path, scratch=path.parent, accepted=accepted)


def model_file(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    """Write a model into `folder`."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def adding(tensor: TensorProto) -> onnx.ModelProto:
    """A model that adds the tensor to x."""
    return model_of([helper.make_node("Add", ["x", tensor.name], ["y"])], initializers=[tensor])


def external(
    location: str, entries: Mapping[str, object] | None = None, *, dims: Iterable[int] = (1000,)
) -> onnx.ModelProto:
    """A model whose weight ``w`` lies in the file `location`; `entries` are more of its external data."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **(entries or {})}.items():
        tensor.external_data.add(key=key, value=str(value))
    return adding(tensor)


def weight_of(loaded: io.Loaded) -> np.ndarray:
    """The values of the weight ``w``."""
    found = graph.constant(loaded.model.graph.initializers["w"])
    assert found is not None
    return found


def names_in(folder: Path) -> list[str]:
    """What `folder` holds."""
    return sorted(entry.name for entry in folder.iterdir())


def external_source(tmp_path: Path, seed: int = 0) -> io.Loaded:
    """A loaded model whose weight lies in a file beside it."""
    folder = tmp_path / f"in{seed}"
    folder.mkdir()
    (folder / "w.bin").write_bytes((W + seed).tobytes())
    return load(model_file(folder, external("w.bin")))


def save(source: io.Loaded, output: Path, *, unchanged: bool = False) -> None:
    """Write a model; one that has a data file gets one again."""
    where = io.ExternalData.ALWAYS if source.has_external_data else io.ExternalData.AUTO
    with io.staged(source.model, output, source=source, unchanged=unchanged, external_data=where) as staged:
        staged.commit()


class Pipe:
    """Stands for stdin, which holds `data`, or for stdout."""

    def __init__(self, data: bytes = b"", *, terminal: bool = False) -> None:
        self.buffer = streams.BytesIO(data)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def data_files_in(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.endswith(".data")]
