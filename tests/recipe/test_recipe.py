"""Recipes: `load(dump(r)) == r`, their schema, and what of them travels."""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import json
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt import passes
from modelopt.core.errors import InputError
from modelopt.passes.base import Pass
from modelopt.quant.static.overrides import Overrides
from modelopt.recipe import pipelines
from modelopt.recipe.dumping import dump
from modelopt.recipe.json_schema import json_schema
from modelopt.recipe.parsing import load, parse
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.paths import without_folders
from modelopt.recipe.recipe import (
    BenchSpec,
    DataSpec,
    EvaluateSpec,
    Gates,
    OnInconclusive,
    Recipe,
    Search,
    Step,
    UntilStable,
)

EXISTING = [name for name in passes.NAMES if importlib.util.find_spec(f"modelopt.passes.{name.replace('-', '_')}")]


# Round trips

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(1e-9, 1e9, allow_nan=False)


SETTINGS: list[dict[str, Any]] = [
    {"type": "u16"},
    {"type": "f32"},
    {"range": [-1.5, 6]},
    {"min": 0, "type": "s8"},
    {"max": 1e-3},
    {"scale": 0.0078125, "zero-point": 128},
]


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of an option's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        return st.one_of([_values(one) for one in arguments])
    if origin is tuple:
        return st.lists(_values(arguments[0]), max_size=3).map(tuple)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    known: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(1, 100),
        float: NUMBERS,
        str: TEXT,
        types.NoneType: st.none(),
        Overrides: st.dictionaries(TEXT, st.sampled_from(SETTINGS), min_size=1, max_size=3).map(Overrides.parse),
    }
    return known[kind]


@st.composite
def some_pass(draw: st.DrawFn) -> Pass:
    kind = passes.find(draw(st.sampled_from(EXISTING)))
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in dataclasses.fields(kind)]
    chosen = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    try:
        return kind(**{name: draw(_values(hints[name])) for name in chosen})
    except InputError:  # options that the pass refuses, or refuses together
        return kind()


DATA: dict[str, st.SearchStrategy[Any]] = {
    "data": TEXT,
    "limit": st.none() | st.integers(1, 99),
    "preprocess": st.none() | TEXT,
    "labels": st.none() | TEXT,
    "batch": st.integers(1, 9),
}


PIPELINES = [
    (name, keep_opset)
    for name in pipelines.PIPELINES
    for keep_opset in ((False, True) if pipelines.raises(name) else (False,))
]


PIECES: st.SearchStrategy[tuple[Step, ...]] = (
    some_pass().map(lambda one: (one,))
    | st.builds(UntilStable, st.lists(some_pass(), max_size=3).map(tuple)).map(lambda one: (one,))
    | st.sampled_from(PIPELINES).map(lambda one: pipelines.expand(one[0], keep_opset=one[1]))
)


SEARCHES = st.sampled_from(
    [
        (None, ()),
        (Search.QUANTIZE, (make_pass("quantize-dynamic", {}),)),
        (Search.KEEP_IF_FASTER, pipelines.expand("contrib")),
        (Search.KEEP_IF_FASTER, pipelines.expand("contrib")[2:]),
    ]
)


def _recipe(pieces: list[tuple[Step, ...]], search: tuple[Search | None, tuple[Step, ...]], **sections: Any) -> Recipe:
    steps = tuple(step for piece in pieces for step in piece)
    return Recipe(steps=(*steps, *search[1]), search=search[0], **sections)


RECIPES = st.builds(
    _recipe,
    pieces=st.lists(PIECES, max_size=5),
    search=SEARCHES,
    name=TEXT,
    target=st.sampled_from(["auto", "x86-vnni", "x86-avx2", "arm64", "tensorrt", "cuda"]),
    seed=st.integers(0, 2**40),
    verify=st.booleans(),
    calibration=st.none() | st.builds(DataSpec, **DATA),
    evaluate=st.none() | st.builds(EvaluateSpec, metric=st.none() | TEXT, **DATA),
    bench=st.none()
    | st.builds(
        BenchSpec,
        provider=TEXT,
        provider_options=st.dictionaries(TEXT, TEXT, max_size=3),
        threads=st.integers(0, 64),
        budget_seconds=st.floats(1e-9, 1e5),
    ),
    gates=st.builds(
        lambda size, **others: Gates(**size, **others),
        size=st.just({})
        | st.builds(lambda ratio: {"max_size_ratio": ratio}, NUMBERS)
        | st.builds(lambda count: {"max_size_bytes": count}, st.integers(0, 2**50)),
        max_drop=st.none() | st.floats(0, 1),
        min_speedup=st.none() | NUMBERS,
        max_latency_ns=st.none() | st.integers(1, 2**50),
        max_memory_bytes=st.none() | st.integers(1, 2**50),
        max_load_ns=st.none() | st.integers(1, 2**50),
        on_inconclusive=st.none() | st.sampled_from(OnInconclusive),
    ),
)


@settings(max_examples=300, deadline=None)
@given(RECIPES)
def test_a_recipe_survives_its_text(one: Recipe) -> None:
    assert parse(dump(one)) == one
    assert parse(dump(one, in_full=True)) == one


@pytest.mark.parametrize("name", EXISTING)
def test_every_pass_survives_its_text_with_its_defaults(name: str) -> None:
    one = Recipe(steps=(make_pass(name, {}),))
    assert dump(one) == f"version: 1\nsteps:\n- {name}\n"
    assert parse(dump(one)) == one


def test_options_are_typed_values() -> None:
    one = make_pass(
        "quantize-static",
        {"activation": "s8", "per-channel": False, "reduce-range": None, "percentile": 99, "include": ["a", "op:Conv"]},
    )
    options = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
    assert options["activation"].name == "S8"
    assert options["per_channel"] is False
    assert options["reduce_range"] is None
    assert isinstance(options["percentile"], float)
    assert options["include"] == ("a", "op:Conv")
    assert hash(one) == hash(make_pass(one.name, one.options()))


def test_a_group_is_unrolled_once_in_the_list_of_passes() -> None:
    one = parse("version: 1\nsteps: [eliminate-dead, {until-stable: [fold-constants, eliminate-dead]}]")
    assert [step.name for step in one.passes()] == ["eliminate-dead", "fold-constants", "eliminate-dead"]


@pytest.mark.parametrize(
    "name", ["\x85", "a\u2028b", "\u2029", "\ufeff", "\0", "1e-3", "yes", "null", "a: b", "*a", " x "]
)
def test_awkward_text_survives(name: str) -> None:
    assert parse(dump(Recipe(steps=(), name=name))).name == name


def test_what_is_said_twice_is_written_twice() -> None:
    shared = make_pass("prune-magnitude", {"include": ["a"]})
    one = Recipe(steps=(shared, shared), calibration=(data := DataSpec(data="random")), evaluate=None)
    assert "&" not in dump(one)
    assert parse(dump(one)).calibration == data


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("# ünïcode\nversion: 1\nsteps: []\n", encoding="utf-8")
    assert load(path) == Recipe(steps=())


def test_a_pipeline_is_written_by_its_name() -> None:
    exact, without = pipelines.expand("exact"), pipelines.expand("fuse", keep_opset=True)
    quantizing = make_pass("quantize-dynamic", {})
    one = Recipe(steps=(*exact, *without, *pipelines.expand("contrib"), quantizing))
    assert dump(one) == (
        "version: 1\nsteps:\n- pipeline: exact\n- pipeline: fuse\n  keep-opset: true\n"
        "- pipeline: contrib\n- quantize-dynamic\n"
    )
    assert "pipeline" not in dump(one, in_full=True)


def test_what_differs_from_a_pipeline_is_written_in_full() -> None:
    (fold,) = pipelines.expand("fold")
    growing = UntilStable((make_pass("fold-constants", {"max-growth": 0.5}), *fold.passes[1:]))
    for step in (growing, UntilStable(fold.passes[1:]), UntilStable((*fold.passes, fold.passes[0]))):
        one = Recipe(steps=(step,))
        assert "pipeline" not in dump(one)
        assert parse(dump(one)) == one


def test_the_file_name_of_a_result_holds_no_path() -> None:
    for name, suffix in (("../../x y", "x-y"), ("", "run"), ("...", "run"), ("é" * 99, "é" * 40), ("int8", "int8")):
        assert Recipe(steps=(), name=name).suffix() == suffix


# Schema


def test_the_schema_names_every_pass_and_option() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    for name in passes.NAMES:
        assert f'"{name}"' in text
        for field in dataclasses.fields(passes.find(name)):
            assert f'"{field.name.replace("_", "-")}"' in text
            assert json.dumps(field.metadata["doc"]) in text
    assert set(schema["properties"]) == {"version", "steps", *(f.name for f in dataclasses.fields(Recipe))}


def test_the_schema_defines_what_it_refers_to() -> None:
    schema = json_schema()
    referred = {part.split('"')[0].removeprefix("#/$defs/") for part in json.dumps(schema).split('"$ref": "')[1:]}
    assert referred <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/home/ada/secret/eval.npz", "eval.npz"),
        ("/home/ada/secret/calib/", "calib"),
        ("../secret/eval.npz", "eval.npz"),
        ("~/secret/eval.npz", "eval.npz"),
        ("/home/ada/secret/data.py:samples", "data.py:samples"),
        ("data/eval.npz", "eval.npz"),
        ("random", "random"),
        ("/", "/"),
    ],
)
def test_a_recipe_travels_without_private_folders(path: str, kept: str) -> None:
    given = Recipe(
        steps=(passes.find("eliminate-dead")(),),
        calibration=DataSpec(data=path, labels=path),
        evaluate=EvaluateSpec(data=path, labels=path, metric=path),
        bench=BenchSpec(provider_options={"cache": path}),
        gates=Gates(metric=(path, "/head/Add=cosine")),
    )
    travels = without_folders(given)
    assert travels.calibration == DataSpec(data=kept, labels=kept)
    assert travels.evaluate == EvaluateSpec(data=kept, labels=kept, metric=kept)
    several = Recipe(steps=(), evaluate=EvaluateSpec(data="x", metric=(path, "/head/Add=cosine")))
    assert without_folders(several).evaluate == EvaluateSpec(data="x", metric=(kept, "/head/Add=cosine"))
    assert travels.bench == BenchSpec(provider_options={"cache": kept})
    assert travels.gates == Gates(metric=(kept, "/head/Add=cosine"))
    assert parse(dump(travels)) == travels


def test_a_recipe_without_data_travels_as_it_is() -> None:
    given = Recipe(steps=(passes.find("eliminate-dead")(),))
    assert without_folders(given) == given
