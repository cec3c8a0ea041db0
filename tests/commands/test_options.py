"""The flags of the command line and the options of a command are the same, and have the same defaults."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelopt.cli.reading import Shown
from modelopt.commands.fold import FoldOptions
from modelopt.commands.fuse import FuseOptions
from modelopt.commands.inspect_model import InspectOptions
from modelopt.commands.option_groups import bench_spec, given
from modelopt.commands.prune import PruneOptions
from modelopt.commands.quantize import CALIBRATION_SAMPLES, QuantizeOptions
from modelopt.commands.run_recipe import RunOptions
from modelopt.commands.side_by_side import BenchOptions, CompareOptions
from modelopt.core.errors import InputError
from modelopt.recipe.recipe import BenchSpec

KINDS: dict[str, Any] = {
    "fold": FoldOptions,
    "fuse": FuseOptions,
    "prune": PruneOptions,
    "quantize": QuantizeOptions,
    "run": RunOptions,
    "bench": BenchOptions,
    "compare": CompareOptions,
    "inspect": InspectOptions,
}
_NO_OPTIONS = {"schema"}
"""Flags that print something and end."""


@pytest.mark.parametrize("name", KINDS)
def test_flags_are_options(name: str) -> None:
    command = importlib.import_module(f"modelopt.cli.{name}_cmd").command
    flags = {parameter.name for parameter in command.params} - _NO_OPTIONS
    options = {field.name for field in dataclasses.fields(KINDS[name])}
    printing = {field.name for field in dataclasses.fields(Shown)}
    assert flags - options <= printing
    assert options - flags <= {"progress"}


@pytest.mark.parametrize("name", KINDS)
def test_flags_that_are_not_given_have_the_defaults_of_the_options(name: str) -> None:
    """Where ``--help`` shows a default, the option has it, or None, which stands for it."""
    command = importlib.import_module(f"modelopt.cli.{name}_cmd").command
    defaults = {field.name: field.default for field in dataclasses.fields(KINDS[name])}
    for parameter in command.params:
        default = defaults.get(parameter.name)
        if getattr(parameter, "show_default", None) and default is not None:
            assert parameter.default == default, parameter.name


def test_none_stands_for_the_defaults_that_help_shows() -> None:
    assert bench_spec(FoldOptions(Path("m.onnx"))) == BenchSpec()
    command = importlib.import_module("modelopt.cli.quantize_cmd").command
    (limit,) = (parameter.default for parameter in command.params if parameter.name == "calib_limit")
    assert limit == CALIBRATION_SAMPLES


def test_what_was_given() -> None:
    options = QuantizeOptions(
        Path("m.onnx"), calib=np.zeros((2, 2)), bits=4, per_channel=False, include=[], search=False
    )
    assert given(options).keys() == {"model", "calib", "bits", "per_channel", "search"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (FoldOptions("m.onnx", engine="tvm"), "unknown engine 'tvm'"),
        (FoldOptions("m.onnx", max_drop=-0.1), "max-drop"),
        (FuseOptions("m.onnx", portable=True, contrib=True), "exclude each other"),
        (QuantizeOptions("m.onnx", mode="dynamic", calib="d"), "--calib is not for --mode dynamic"),
        (QuantizeOptions("m.onnx", calib="d", override={"a": {"typ": "u16"}}), "typ"),
        (PruneOptions("m.onnx", labels="l.csv"), "--labels needs --eval"),
    ],
)
def test_options_that_make_no_sense(options: FoldOptions, words: str) -> None:
    with pytest.raises(InputError, match=words):
        options.plan()


def test_mappings_and_texts_are_the_same() -> None:
    texts = FoldOptions("m.onnx", freeze_dim=["batch=1"], input_shape=["x:1,3"])
    mappings = FoldOptions("m.onnx", freeze_dim={"batch": 1}, input_shape={"x": (1, 3)})
    assert texts.recipe_to_run() == mappings.recipe_to_run()
    texts_ = QuantizeOptions("m.onnx", calib="d", override=["logits: {type: u16}"])
    mapping = QuantizeOptions("m.onnx", calib="d", override={"logits": {"type": "u16"}})
    assert texts_.recipe_to_run() == mapping.recipe_to_run()
