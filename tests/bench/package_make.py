"""Make the models that package_models.py takes from no package; it runs this in the converters' environment.

    python package_make.py FOLDER NAME…

Data are made up and seeded. The options are the converters' defaults, as users leave them. A half-precision model is
made of the float model of the same name, which lies in FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

_FEATURES = 8
_ROWS = 400
_TREES = 20


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_ROWS, _FEATURES)).astype(np.float32)
    return rows, (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(np.int64) + (rows[:, 3] > 1)


def _sklearn(estimator: Any, **options: Any) -> Any:
    from skl2onnx import to_onnx  # type: ignore[import-not-found]

    rows, labels = _data()
    estimator.fit(rows, labels)
    named = {id(estimator): options} if options else None
    return to_onnx(estimator, rows[:1], options=named)


def sklearn_pipeline() -> Any:
    """A scaler and a linear classifier, with the ZipMap that is the default."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-not-found]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-not-found]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-not-found]

    return _sklearn(make_pipeline(StandardScaler(), LogisticRegression()))


def sklearn_columns() -> Any:
    """A table with a column of strings: one input for each column."""
    import pandas as pd  # type: ignore[import-untyped]
    from skl2onnx import to_onnx
    from sklearn.compose import ColumnTransformer  # type: ignore[import-not-found]
    from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-not-found]
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows, labels = _data()
    colors = np.array(["red", "green", "blue"])[np.arange(_ROWS) % 3]
    table = pd.DataFrame({"age": rows[:, 0], "income": rows[:, 1], "color": colors})
    columns = [("n", StandardScaler(), ["age", "income"]), ("s", OneHotEncoder(handle_unknown="ignore"), ["color"])]
    pipeline = make_pipeline(ColumnTransformer(columns), RandomForestClassifier(_TREES, random_state=0, max_depth=6))
    return to_onnx(pipeline.fit(table, labels), table[:1])


def sklearn_forest() -> Any:
    """A forest whose probabilities are a tensor."""
    from sklearn.ensemble import RandomForestClassifier

    return _sklearn(RandomForestClassifier(_TREES, random_state=0), zipmap=False)


def sklearn_mlp() -> Any:
    """A scaler and a small network."""
    from sklearn.neural_network import MLPClassifier  # type: ignore[import-not-found]
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _sklearn(make_pipeline(StandardScaler(), MLPClassifier((64, 64), max_iter=50, random_state=0)))


def sklearn_svm() -> Any:
    """Support vectors with probabilities."""
    from sklearn.svm import SVC  # type: ignore[import-not-found]

    return _sklearn(SVC(probability=True, random_state=0))


def sklearn_kmeans() -> Any:
    """Clusters."""
    from sklearn.cluster import KMeans  # type: ignore[import-not-found]

    return _sklearn(KMeans(5, random_state=0, n_init=3))


def sklearn_text() -> Any:
    """Strings into TF-IDF into a linear classifier; capitals count, for a change of case needs a locale installed."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType  # type: ignore[import-not-found]
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-not-found]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["a good red car", "a bad blue boat", "the good green boat", "the bad red boat"] * 10
    pipeline = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 10)
    return to_onnx(pipeline, initial_types=[("text", StringTensorType([None]))])


def lightgbm() -> Any:
    """Boosted trees, with the ZipMap that is the default."""
    import lightgbm as package  # type: ignore[import-not-found]
    import onnxmltools  # type: ignore[import-not-found]
    from onnxmltools.convert.common.data_types import FloatTensorType  # type: ignore[import-not-found]

    model = package.LGBMClassifier(n_estimators=_TREES, random_state=0, verbose=-1).fit(*_data())
    return onnxmltools.convert_lightgbm(model, initial_types=[("input", FloatTensorType([None, _FEATURES]))])


def xgboost() -> Any:
    """Boosted trees."""
    import onnxmltools
    import xgboost as package  # type: ignore[import-not-found]
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = package.XGBClassifier(n_estimators=_TREES, random_state=0).fit(*_data())
    return onnxmltools.convert_xgboost(model, initial_types=[("input", FloatTensorType([None, _FEATURES]))])


def half(folder: Path, name: str) -> Any:
    """The float model of the same name in half precision."""
    from onnxconverter_common import float16  # type: ignore[import-not-found]

    return float16.convert_float_to_float16(onnx.load(folder / name.removesuffix("_fp16") / "model.onnx"))


_MADE: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        sklearn_pipeline,
        sklearn_columns,
        sklearn_forest,
        sklearn_mlp,
        sklearn_svm,
        sklearn_kmeans,
        sklearn_text,
        lightgbm,
        xgboost,
    )
}


def main(folder: Path, names: list[str]) -> None:
    """Write each model."""
    for name in names:
        model = _MADE[name]() if name in _MADE else half(folder, name)
        (folder / name).mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / name / "model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
