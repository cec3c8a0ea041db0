"""The noise floor of a machine: how it is found, kept, and used."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from modelopt.measure import noise_floor
from modelopt.measure.environment import Environment
from modelopt.measure.speed import FLOOR, Ratio, Verdict
from tests.command_line import MLP, modelopt

HERE = Environment(
    cpu="x", machine="m", system="s", cores=4, threads=2, python="3", onnxruntime="1", load_average=None, governor=None
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/modelopt/noise.json"


@pytest.mark.parametrize(
    ("low", "high", "floor"), [(0.97, 1.01, 1 / 0.97 - 1), (0.999, 1.04, 0.04), (0.999, 1.001, FLOOR)]
)
def test_the_floor_is_the_largest_distance_from_one(low: float, high: float, floor: float) -> None:
    copies = Ratio(point=1.0, low=low, high=high, verdict=Verdict.NO_DIFFERENCE, processes=8)
    assert noise_floor.of(copies) == pytest.approx(floor)


def test_it_is_kept_per_processor_and_number_of_threads(cache: Path) -> None:
    assert noise_floor.stored(HERE) == FLOOR
    assert noise_floor.store(HERE, 0.03) == cache
    one_thread = msgspec.structs.replace(HERE, threads=1)
    noise_floor.store(one_thread, 0.05)
    assert (noise_floor.stored(HERE), noise_floor.stored(one_thread)) == (0.03, 0.05)
    assert noise_floor.stored(msgspec.structs.replace(HERE, cpu="y")) == FLOOR
    assert [path.name for path in cache.parent.iterdir()] == ["noise.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"x": "y"}'])
def test_a_torn_file_is_as_good_as_none(cache: Path, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert noise_floor.stored(HERE) == FLOOR


def test_the_command_measures_keeps_and_heeds_it(tmp_path: Path) -> None:
    brief = ("--budget", "0.2", "--warmup", "0", "--rounds", "2", "--threads", "1")
    run = modelopt("bench", MLP, MLP, *brief, "--calibrate-noise", cwd=tmp_path).succeeded()
    assert "noise floor of this machine: a copy is" in run.out.decode()
    (floor,) = json.loads((tmp_path / ".cache/modelopt/noise.json").read_text()).values()
    assert floor > FLOOR
    report = json.loads(modelopt("bench", MLP, MLP, *brief, "--json", cwd=tmp_path).succeeded().out)
    assert [result["noise_floor"] for result in report["results"]] == [floor, floor]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("in the way")
    brief = ("--budget", "0.2", "--warmup", "0", "--rounds", "2")
    run = modelopt("bench", MLP, *brief, "--calibrate-noise", cwd=tmp_path)
    run.failed(2, "the noise floor cannot be kept", "XDG_CACHE_HOME")
