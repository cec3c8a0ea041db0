"""`modelopt run`: a flag takes the place of what the recipe says, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, OnInconclusive, Recipe
from tests.command_line import modelopt

_RECIPE = """version: 1
name: r
steps:
  - quantize-static
calibration:
  data: calib
  limit: 7
  preprocess: scale=1/255
evaluate:
  data: eval
  limit: 9
  labels: labels.csv
  metric: top1
  preprocess: scale=1/255
bench:
  provider: tensorrt
  provider-options: {device_id: "1"}
  threads: 3
  budget-seconds: 20.0
  rounds: 30
gates:
  max-drop: 2%
  max-size: 1kB
"""


def _overridden(folder: Path, *flags: str, text: str = _RECIPE) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    printed = modelopt("run", path, "model.onnx", "--print-recipe", *flags, cwd=folder).succeeded()
    return parse(printed.out.decode())


@pytest.mark.parametrize(
    ("flags", "part", "changes"),
    [
        (("--budget", "1"), "bench", {"budget_seconds": 1.0}),
        (("--rounds", "4", "--threads", "2"), "bench", {"rounds": 4, "threads": 2}),
        (("--provider", "cpu"), "bench", {"provider": "cpu", "provider_options": {}}),
        (("--provider-option", "b=2"), "bench", {"provider_options": {"device_id": "1", "b": "2"}}),
        (("--calib", "other"), "calibration", {"data": "other"}),
        (("--eval", "other"), "evaluate", {"data": "other", "labels": None}),
        (("--metric", "top5"), "evaluate", {"metric": "top5"}),
        (("--eval-limit", "2"), "evaluate", {"limit": 2}),
        (("--min-speedup", "2"), "gates", {"min_speedup": 2.0}),
        (("--max-size", "50%"), "gates", {"max_size_ratio": 0.5, "max_size_bytes": None}),
        (("--max-latency", "2ms"), "gates", {"max_latency_ns": 2_000_000}),
        (("--on-inconclusive", "fail"), "gates", {"on_inconclusive": OnInconclusive.FAIL}),
    ],
)
def test_a_flag_replaces_nothing_else(
    tmp_path: Path, flags: tuple[str, ...], part: str, changes: dict[str, object]
) -> None:
    before, after = _overridden(tmp_path), _overridden(tmp_path, *flags)
    for name in ("calibration", "evaluate", "bench", "gates"):
        expected = getattr(before, name)
        if name == part:
            expected = msgspec.structs.replace(expected, **changes)
        assert getattr(after, name) == expected


def test_preprocessing_reaches_all_images(tmp_path: Path) -> None:
    changed = _overridden(tmp_path, "--preprocess", "scale=1/127")
    assert changed.calibration is not None
    assert changed.evaluate is not None
    assert (changed.calibration.preprocess, changed.evaluate.preprocess) == ("scale=1/127", "scale=1/127")


_SHORT = "version: 1\nname: r\nsteps:\n  - quantize-static\n"


def test_what_a_recipe_lacks_is_added(tmp_path: Path) -> None:
    flags = ("--calib", "c", "--eval", "e", "--preprocess", "scale=1/127", "--budget", "2")
    changed = _overridden(tmp_path, *flags, text=_SHORT)
    assert changed.calibration == DataSpec(data="c", preprocess="scale=1/127")
    assert changed.evaluate == EvaluateSpec(data="e", preprocess="scale=1/127")
    assert changed.bench == BenchSpec(budget_seconds=2.0)


@pytest.mark.parametrize("flag", ["--preprocess=scale=1/127", "--metric=top1", "--labels=l.csv", "--eval-limit=2"])
def test_a_flag_about_data_that_there_are_not_is_refused(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(_SHORT, encoding="utf-8")
    ran = modelopt("run", "r.yaml", "model.onnx", "--print-recipe", flag, cwd=tmp_path)
    assert ran.code == 2
    assert f"{flag.split('=')[0]} needs" in ran.err
