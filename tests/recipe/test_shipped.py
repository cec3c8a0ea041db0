"""Every recipe of the package loads, round-trips, does what the command of its kind does, and is found by its name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.engine import optimize
from modelopt.recipe import shipped_recipes
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import load, parse
from modelopt.recipe.recipe import BenchSpec, DataSpec, Recipe
from tests.command_line import CNN, QUICK, calibration, environment, modelopt

NAMES = shipped_recipes.names()


def shipped(name: str) -> Recipe:
    return load(shipped_recipes.path_of(name))


def test_the_recipes_that_the_readme_promises_are_there() -> None:
    assert NAMES == ("cpu-latency", "int8-dynamic", "int8-static", "prune-magnitude", "tensorrt-int8")


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str) -> None:
    loaded = shipped(name)
    assert loaded.name == name
    assert parse(dump(loaded)) == loaded


@pytest.mark.parametrize("name", NAMES)
def test_its_first_sentence_says_what_it_is_for(name: str) -> None:
    summary = shipped_recipes.summary(name)
    assert summary[0].isupper()
    assert 20 < len(summary) < 120
    assert not summary.endswith(".")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("cpu-latency", ["fuse", "--contrib", "m.onnx"]),
        ("int8-dynamic", ["quantize", "--mode", "dynamic", "m.onnx"]),
        ("int8-static", ["quantize", "--calib", "c.npz", "m.onnx"]),
        ("tensorrt-int8", ["quantize", "--calib", "c.npz", "--target", "tensorrt", "--provider", "tensorrt", "m.onnx"]),
    ],
)
def test_its_passes_are_those_of_the_command(name: str, command: list[str], tmp_path: Path) -> None:
    printed = parse(modelopt(*command, "--print-recipe", cwd=tmp_path).succeeded().out.decode())
    steps = printed.steps[: -len(printed.contrib_groups())] if printed.contrib_groups() else printed.steps
    assert shipped(name).steps == steps


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path) -> None:
    loaded = shipped(name)
    changes: dict[str, object] = {}
    if any(step.needs_data for step in loaded.passes()):
        changes["calibration"] = DataSpec(data=str(calibration("digits_cnn")), limit=16)
    if loaded.bench is not None:
        changes["bench"] = msgspec.structs.replace(loaded.bench, budget_seconds=0.1, warmup_seconds=0.1)
    prepared = dataclasses.replace(loaded, **changes)  # type: ignore[arg-type]
    request = optimize.Request(recipe=prepared, model=CNN, output=tmp_path / "out.onnx")
    if isinstance(prepared.bench, BenchSpec) and prepared.bench.provider == "tensorrt":
        with pytest.raises(EnvironmentLacks, match="TensorrtExecutionProvider is not available"):
            optimize.run(request)
        return
    report = optimize.run(request)
    assert report.written
    assert (tmp_path / "out.onnx").exists()


# By name


def test_a_recipe_is_found_by_its_name(tmp_path: Path) -> None:
    modelopt("run", "prune-magnitude", CNN, "-o", "out.onnx", *QUICK, cwd=tmp_path).succeeded()


def test_a_file_is_taken_before_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpu-latency").write_text("version: 1\nname: mine\nsteps: []\n")
    printed = modelopt("run", "cpu-latency", "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert parse(printed).name == "mine"


def test_a_folder_hides_no_name(tmp_path: Path) -> None:
    (tmp_path / "cpu-latency").mkdir()
    printed = modelopt("run", "cpu-latency", "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert parse(printed) == shipped("cpu-latency")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("int8-statik", ["unknown recipe 'int8-statik'", "did you mean 'int8-static'?"]),
        ("zzz.yaml", ["unknown recipe 'zzz.yaml'", "no such file", "modelopt recipes"]),
        ("../recipe/shipped/int8-static", ["unknown recipe", "no such file"]),
    ],
)
def test_neither_a_file_nor_a_name(said: str, words: list[str], tmp_path: Path) -> None:
    modelopt("run", said, CNN, "-o", "x.onnx", cwd=tmp_path).refused(2, *words)


def test_the_list(tmp_path: Path) -> None:
    listed = modelopt("recipes", cwd=tmp_path).succeeded().out.decode().splitlines()
    assert [line.split()[0] for line in listed[1:]] == [*NAMES]
    for line, name in zip(listed[1:], NAMES, strict=True):
        assert shipped_recipes.summary(name) in line
    document = msgspec.json.decode(modelopt("recipes", "--json", cwd=tmp_path).succeeded().out)
    assert [(one["name"], one["text"]) for one in document["recipes"]] == [
        (name, shipped_recipes.text_of(name)) for name in NAMES
    ]


def test_one_is_printed_as_it_is(tmp_path: Path) -> None:
    printed = modelopt("recipes", "int8-static", cwd=tmp_path).succeeded().out.decode()
    assert printed == shipped_recipes.text_of("int8-static")
    modelopt("recipes", "int8-dyn", cwd=tmp_path).refused(2, "unknown recipe", "did you mean 'int8-dynamic'?")
    with pytest.raises(InputError, match="unknown recipe"):
        shipped_recipes.text_of("../recipe")


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [("modelopt run int8", "int8", {"int8-dynamic", "int8-static"}), ("modelopt recipes ", "", {*NAMES})],
)
def test_shells_complete_the_names(words: str, typed: str, expected: set[str], tmp_path: Path) -> None:
    env = {"_MODELOPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    done = subprocess.run(
        [Path(sys.executable).with_name("modelopt")],
        env=environment(tmp_path, **env),
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected
    assert typed in words
