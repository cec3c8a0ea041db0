"""The onnx package's own test cases: a model with data each."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.campaigns.runs import Feeds

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")


@dataclass(frozen=True)
class Case:
    """A model with data.

    Attributes:
        name: Its name.
        content: Gives its bytes.
        feeds: Gives what to run it on.
        size_bytes: Of the file; 0 for node cases.
    """

    name: str
    content: Callable[[], bytes]
    feeds: Callable[[bytes], list[Feeds]]
    size_bytes: int = 0

    @property
    def is_light(self) -> bool:
        """Whether its weights are ConstantOfShape."""
        return self.name.startswith("light/")


def node_cases(every: int = 1) -> list[Case]:
    """What onnx generates for its operators, or for one in `every`: to generate them all takes seven seconds."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in [found.name for found in pkgutil.iter_modules(node.__path__)][::every]:
            importlib.import_module(f"{node.__name__}.{module}")  # this generates its cases
        found = node.collect_testcases(None) if every == 1 else node._NodeTestCases
    return [_node_case(case) for case in found]


def _node_case(case: Any) -> Case:
    names = [value.name for value in case.model.graph.input]

    def feeds(_content: bytes) -> list[Feeds]:
        return [_named(names, inputs) for inputs, _outputs in case.data_sets or []]

    return Case(f"node/{case.name}", case.model.SerializeToString, feeds)


def _named(names: Sequence[str], inputs: Sequence[Any]) -> Feeds:
    return {name: _plain(value) for name, value in zip(names, inputs, strict=False) if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return np.asarray(value) if np.isscalar(value) or isinstance(value, np.generic) else value


def file_cases() -> list[Case]:
    """The models that the onnx package ships as files."""
    found = [_folder_case(path) for name in _FOLDERS for path in sorted((DATA / name).glob("*/model.onnx"))]
    light = sorted((DATA / "light").glob("*.onnx"))
    return found + [Case(f"light/{path.stem}", path.read_bytes, _seeded, path.stat().st_size) for path in light]


def _folder_case(path: Path) -> Case:
    def feeds(content: bytes) -> list[Feeds]:
        proto = onnx.ModelProto.FromString(content)
        stored = {tensor.name for tensor in proto.graph.initializer}
        values = [value for value in proto.graph.input if value.name not in stored]
        return [
            {value.name: _read(folder / f"input_{i}.pb", value.type) for i, value in enumerate(values)}
            for folder in sorted(path.parent.glob("test_data_set_*"))
        ]

    return Case(f"{path.parents[1].name}/{path.parent.name}", path.read_bytes, feeds, path.stat().st_size)


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return _plain(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _seeded(content: bytes) -> list[Feeds]:
    proto = onnx.ModelProto.FromString(content)
    stored = {tensor.name for tensor in proto.graph.initializer}
    rng = np.random.default_rng(0)
    return [
        {
            value.name: rng.normal(size=[dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]).astype("f")
            for value in proto.graph.input
            if value.name not in stored
        }
    ]
