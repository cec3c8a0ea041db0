"""Images as files, and what of them a data set gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modelopt.core.signature import Dim, TensorSpec
from modelopt.data import Preprocess, open_data


def spec(*shape: Dim, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", dtype, shape)


def save(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)
    return str(path)


def flat(*color: int, size: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (*size, len(color))).copy()


def one(source: str, tensor: TensorSpec, text: str | None = "scale=1") -> np.ndarray:
    preprocess = None if text is None else Preprocess.parse(text)
    (sample,) = open_data(source, [tensor], preprocess=preprocess)
    return sample.feeds["x"]
