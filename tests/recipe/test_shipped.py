"""Every shipped recipe loads, round-trips, and runs where its provider exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelopt.core.errors import EnvironmentLacks
from modelopt.engine import optimize
from modelopt.recipe import recipe
from modelopt.recipe.recipe import BenchSpec, DataSpec
from tests.paths import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SAMPLE = ROOT / "sample_models" / "digits_cnn"


def test_the_recipes_that_the_readme_promises_are_there() -> None:
    names = {path.stem for path in RECIPES}
    assert names == {"cpu-latency", "int8-static", "int8-dynamic", "prune-magnitude", "tensorrt-int8"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_round_trip(path: Path) -> None:
    loaded = recipe.load(path)
    assert loaded.name == path.stem
    assert recipe.parse(recipe.dump(loaded)) == loaded


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    import dataclasses

    import msgspec

    loaded = recipe.load(path)
    changes: dict[str, object] = {}
    if any(step.needs_data for step in loaded.passes()):
        changes["calibration"] = DataSpec(data=str(SAMPLE / "calib.npz"), limit=16)
    if loaded.bench is not None:
        changes["bench"] = msgspec.structs.replace(loaded.bench, budget_seconds=0.1, warmup_seconds=0.1)
    prepared = dataclasses.replace(loaded, **changes)  # type: ignore[arg-type]
    request = optimize.Request(recipe=prepared, model=SAMPLE / "model.onnx", output=tmp_path / "out.onnx")
    if isinstance(prepared.bench, BenchSpec) and prepared.bench.provider == "tensorrt":
        with pytest.raises(EnvironmentLacks, match="TensorrtExecutionProvider is not available"):
            optimize.run(request)
        return
    report = optimize.run(request)
    assert report.written
    assert (tmp_path / "out.onnx").exists()
