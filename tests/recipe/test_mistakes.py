"""A mistake in a recipe is answered with its line, and no text makes the parser fail."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt.core.errors import InputError
from modelopt.recipe.parsing import load, parse
from modelopt.recipe.recipe import Recipe

# Mistakes

HEAD = "version: 1\nsteps:\n- fold-constants\n"  # three lines


@pytest.mark.parametrize(
    ("text", "fact", "note", "hint"),
    [
        (HEAD + "gate: {}\n", "r:4: unknown key 'gate'", "keys: version, steps, ", "did you mean 'gates'?"),
        (HEAD + "- fuse-conv-bm\n", "r:4: unknown pass 'fuse-conv-bm'", "passes: ", "did you mean 'fuse-conv-bn'?"),
        (HEAD + "- zzz\n", "r:4: unknown pass 'zzz'", "passes: ", "modelopt passes"),
        (
            HEAD + "- quantize-static:\n    method: mse\n    per-chanel: true\n",
            "r:6: unknown option 'per-chanel' of quantize-static",
            "options: activation, per-channel, ",
            "did you mean 'per-channel'?",
        ),
        (
            HEAD + "- quantize-static:\n    method: mse\n    per-channel: 1\n",
            "r:6: bad option of quantize-static",
            "per-channel: Expected `bool | null`, got `int`",
            None,
        ),
        (
            HEAD + "- quantize-static:\n    include:\n    - 7\n",
            "r:5: bad option of quantize-static",
            "include[0]: Expected `str`, got `int`",
            None,
        ),
        (
            HEAD + "- quantize-static: {method: best}\n",
            "r:4: bad option of quantize-static",
            "method: Invalid enum value 'best'",
            None,
        ),
        (HEAD + "- eliminate-dead:\n    fast: true\n", "r:5: unknown option 'fast' of eliminate-dead", None, None),
        (HEAD + "- fold-constants: [1]\n", "r:4: the options of fold-constants must be a mapping", "found [1]", None),
        (HEAD + "- 7\n", "r:4: a step is a pass name", "found 7", None),
        (HEAD + "- {a: {}, b: {}}\n", "r:4: a step is a pass name", "found {'a': {}, 'b': {}}", None),
        (HEAD + "-\n", "r:4: a step is a pass name", "found None", None),
        (HEAD + "- until-stable: fold-constants\n", "r:4: until-stable takes a list of passes", "found 'fold", None),
        (
            HEAD + "- until-stable:\n  - fold-constants\n  - until-stable: [fold-constants]\n",
            "r:6: until-stable cannot stand in until-stable",
            None,
            None,
        ),
        (HEAD + "- until-stable:\n  - pipeline: exact\n", "r:5: pipeline cannot stand in until-stable", None, None),
        (
            HEAD + "- until-stable:\n  - pipeline: exact\n    keep-opset: true\n",
            "r:5: pipeline cannot stand in until-stable",
            None,
            None,
        ),
        (HEAD + "- until-stable\n", "r:4: until-stable takes a list of passes", None, None),
        (HEAD + "- pipeline\n", "r:4: pipeline takes the name of a pipeline", None, "- pipeline: exact"),
        (HEAD + "- pipeline: [exact]\n", "r:4: pipeline takes the name of a pipeline", "found ['exact']", None),
        (HEAD + "- pipeline: exat\n", "r:4: unknown pipeline 'exat'", "pipelines: fold, ", "did you mean 'exact'?"),
        (HEAD + "- pipelin: exact\n", "r:4: unknown pass 'pipelin'", "passes: ", "did you mean 'pipeline'?"),
        (HEAD + "- contrib\n", "r:4: contrib is a pipeline, not a pass", None, "- pipeline: contrib"),
        (
            HEAD + "- pipeline: exact\n  keep-opst: true\n",
            "r:5: unknown option 'keep-opst' of the pipeline exact",
            "options: keep-opset",
            "did you mean 'keep-opset'?",
        ),
        (
            HEAD + "- keep-opset: true\n  pipeline: fold\n",
            "r:4: unknown option 'keep-opset' of the pipeline fold",
            "fold has no options",
            None,
        ),
        (HEAD + "- pipeline: fuse\n  keep-opset: 1\n", "r:5: keep-opset must be true or false", "found 1", None),
        (
            HEAD + "search: quantise\n",
            "r:4: search: Invalid enum value 'quantise'",
            "searches: quantize, keep-if-faster",
            "did you mean 'quantize'?",
        ),
        (HEAD + "search: [quantize]\n", "r:4: search: Expected `str | null`", None, None),
        (HEAD + "search: quantize\n", "r:4: search: quantize needs a pass that quantizes", "it tries others", None),
        ("version: 1\nsearch: quantize\nsteps: []\n", "r:2: search: quantize needs a pass", None, None),
        (
            HEAD + "search: keep-if-faster\n",
            "r:4: search: keep-if-faster needs groups of onnxruntime's operators",
            "it keeps those",
            None,
        ),
        (HEAD + "- until-stable:\n  - fold-constants\n  - folding\n", "r:6: unknown pass 'folding'", "passes: ", None),
        (HEAD + "- prune-magnitude: {sparsity: 2.0}\n", "r:4: sparsity 2.0 is not in [0, 1)", None, None),
        (HEAD + "seed: x\n", "r:4: seed: Expected `int`, got `str`", None, None),
        (HEAD + "seed: -1\n", "r:4: seed: Expected `int` >= 0", None, None),
        (HEAD + "gates:\n  max-drop: 1\n", "r:5: gates: max-drop: '1' has no unit: it may mean 1% or 100%", None, None),
        (HEAD + "gates:\n  max-drop: few\n", "r:5: gates: max-drop: 'few' is not a fraction such as 1%", None, None),
        (HEAD + "gates:\n  max-size: 5\n", "r:5: gates: max-size: '5' has no unit: it may mean 5MB or 5%", None, None),
        (HEAD + "gates:\n  max-latency: 2\n", "r:5: gates: max-latency: '2' has no unit", None, None),
        (HEAD + "gates:\n  max-memory: [1]\n", "r:5: gates: max-memory: '[1]' is not a size such as 200MB", None, None),
        (HEAD + "gates:\n  on-inconclusive: maybe\n", "r:5: gates: Invalid enum value 'maybe'", None, None),
        (HEAD + "gates:\n  max-drop: .nan\n", "r:5: .nan is not a finite number", None, None),
        (HEAD + "calibration:\n  data: x\n  limit: 0\n", "r:6: calibration: Expected `int` >= 1", None, None),
        (HEAD + "calibration:\n  limit: 5\n", "r:4: calibration: Object missing required field `data`", None, None),
        (HEAD + "bench:\n  speed: 1\n", "r:4: bench: Object contains unknown field `speed`", None, None),
        ("version: 2\nsteps: []\n", "r:1: version must be 1", "found 2", None),
        ("steps: []\nversion: true\n", "r:2: version must be 1", "found True", None),
        ("steps: []\n", "r:1: version must be 1", "found None", None),
        ("version: 1\n", "r:1: steps must be a list of passes", "found None", None),
        ("version: 1\nsteps: fold-constants\n", "r:2: steps must be a list of passes", "found 'fold-constants'", None),
        ("version: 1\nsteps: []\nsteps: []\n", "r:3: the key 'steps' is given twice", None, None),
        ("version: 1\nsteps: [\n", "r:3: not YAML", "", None),
        ("a: b: c\n", "r:1: not YAML", "mapping values are not allowed here", None),
        ("\tversion: 1\n", "r:1: not YAML", "", None),
        ("version: 1\n---\nversion: 1\n", "r:2: not YAML", "", None),
        (
            "version: 1\nsteps: []\nname: !!python/object/apply:os.system [ls]\n",
            "r:3: tags (tag:yaml.org,2002:python/",
            None,
            None,
        ),
        (
            "version: 1\nsteps: []\nname: !!timestamp 2026-99-99\n",
            "r:3: tags (tag:yaml.org,2002:timestamp)",
            None,
            None,
        ),
        ("version: 1\nsteps: []\nname: 2026-99-99\n", "r: not YAML", "month must be in 1..12", None),
        ("version: 1\n? [a]\n: b\n", "r:2: not YAML", "found unhashable key", None),
        ("version: 1\nname: &a x\nsteps: [*a]\n", "r:3: aliases (*a) are not supported", None, None),
        ("[" * 1500 + "]" * 1500, "r:1: nested too deeply", None, None),
        ("version: 1\nname: \x00\n", "r", None, None),
        ("", "r is not a recipe", "a recipe is a mapping", None),
        ("- fold-constants\n", "r is not a recipe", "a recipe is a mapping", None),
    ],
)
def test_a_mistake_is_located_and_explained(text: str, fact: str, note: str | None, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, source="r")
    assert caught.value.fact.startswith(fact)
    assert (caught.value.note or "").startswith(note or "")
    if hint is not None:
        assert caught.value.hint == hint


def test_aliases_that_would_grow_without_end_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(InputError, match=r"r:2: aliases \(\*a0\) are not supported"):
        parse("\n".join(lines), source="r")


def test_a_long_mistake_is_cut_short() -> None:
    with pytest.raises(InputError) as caught:
        parse(f"version: 1\nsteps: {'x' * 10_000}")
    assert caught.value.note is not None
    assert len(caught.value.note) < 100


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\xff\xfe")
    with pytest.raises(InputError, match="is not a recipe") as caught:
        load(path)
    assert caught.value.note == "it is not text"
    for missing in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            load(missing)


PUNCTUATION = st.sampled_from([*"[]{}:,-!&*?|>'\"\n #%@`a1", "version: 1\n"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(PUNCTUATION).map("".join))
def test_no_text_makes_it_fail(text: str) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(parse(text), Recipe)
