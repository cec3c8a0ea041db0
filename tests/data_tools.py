"""What tests of array files share: declared inputs, arrays, files, and the error that opening them ends in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelopt.core.errors import ModeloptError
from modelopt.core.signature import Dim, TensorSpec
from modelopt.data import Dataset, open_data


def spec(name: str, *shape: Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def unknown(name: str) -> TensorSpec:
    return TensorSpec(name, "float32", None)


def floats(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def npz(folder: Path, name: str = "calib.npz", /, **arrays: Any) -> str:
    path = folder / name
    np.savez_compressed(path, **arrays)
    return str(path)


def error_of(kind: type[ModeloptError], call: Callable[..., Any], *args: Any, **options: Any) -> ModeloptError:
    with pytest.raises(kind) as caught:
        list(call(*args, **options))
    assert "\n" not in caught.value.fact
    return caught.value


def error(kind: type[ModeloptError], *args: Any, **options: Any) -> ModeloptError:
    return error_of(kind, open_data, *args, **options)


def shapes(dataset: Dataset, name: str) -> list[tuple[int, ...]]:
    return [sample.feeds[name].shape for sample in dataset]


X = spec("x", "n", 4)
