"""Data that do not fit, cannot be read or are missing are refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import CALIB, MLP, QUICK, modelopt


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    with np.load(CALIB) as arrays:
        return np.array(arrays["features"])


def quantize(tmp_path: Path, *arguments: str | Path) -> list[str | Path]:
    return ["quantize", MLP, "-o", "x.onnx", *QUICK, *arguments]


def test_calibration_that_does_not_exist(tmp_path: Path) -> None:
    shutil.copy(CALIB, tmp_path / "calib.npz")
    run = modelopt(*quantize(tmp_path, "--calib", "clib.npz"), cwd=tmp_path)
    run.refused(2, "clib.npz", "did you mean 'calib.npz'?")


def calibrate(folder: Path, **arrays: np.ndarray) -> list[str | Path]:
    np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for allow_pickle
    return quantize(folder, "--calib", "bad.npz")


def test_calibration_with_another_name(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, feature=features), cwd=tmp_path).refused(2, "feature", "features")


def test_calibration_of_another_dtype(tmp_path: Path, features: np.ndarray) -> None:
    run = modelopt(*calibrate(tmp_path, features=features.astype(np.int64)), cwd=tmp_path)
    run.refused(2, "features", "int64", "float32")


def test_calibration_of_another_shape(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, features=features[:, :63]), cwd=tmp_path).refused(2, "features", "63", "64")


def test_calibration_with_nan(tmp_path: Path, features: np.ndarray) -> None:
    poisoned = features.copy()
    poisoned[17, 3] = np.nan
    modelopt(*calibrate(tmp_path, features=poisoned), cwd=tmp_path).refused(2, "NaN", "17")


def test_calibration_without_samples(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, features=features[:0]), cwd=tmp_path).refused(2, "bad.npz", "no sample")


def test_calibration_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    modelopt(*quantize(tmp_path, "--calib", "data"), cwd=tmp_path).refused(2, "data")


def test_calibration_that_pickles(tmp_path: Path) -> None:
    run = modelopt(*calibrate(tmp_path, features=np.array([{"a": 1}], dtype=object)), cwd=tmp_path)
    run.refused(2, "features")


def test_labels_that_do_not_match(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.zeros(len(features) - 1, np.int64))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    run.refused(2, "label", str(len(features)), str(len(features) - 1))


def test_labels_of_classes_that_the_model_does_not_have(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.full(len(features), 10))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    assert "note: the labels are not class numbers that fit an output" in run.succeeded().err


def test_a_label_that_the_model_does_not_have_among_others(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.arange(len(features)))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    run.refused(2, "eval.npz[10]", "label")


def test_static_quantization_without_data(tmp_path: Path) -> None:
    modelopt(*quantize(tmp_path), cwd=tmp_path).refused(2, "needs calibration data", "--calib", "--mode dynamic")


def test_a_drop_without_data_to_measure_it_on(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-drop", "1%", "--no-verify", "--no-bench", cwd=tmp_path)
    run.refused(2, "--max-drop", "--eval")


def test_a_speedup_without_a_benchmark(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--min-speedup", "1.1", "--no-bench", cwd=tmp_path)
    run.refused(2, "--min-speedup", "--no-bench")
