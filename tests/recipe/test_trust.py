"""A recipe file names files below its own folder and no code, unless that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelopt.core.errors import InputError
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Recipe
from modelopt.recipe.trust import Trust, has_paths, needed, placed

ALL = Trust(code=True, paths=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe in a folder, with data beside it and data elsewhere."""
    folder = tmp_path / "recipes"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for path in (folder / "r.yaml", folder / "data/x.npz", tmp_path / "private.npz", tmp_path / "elsewhere/y.npz"):
        path.write_text("")
    return folder / "r.yaml"


def _calibrating(data: str, labels: str | None = None) -> Recipe:
    return Recipe(steps=(), calibration=DataSpec(data=data, labels=labels))


def _refused(recipe: Recipe, file: Path, *words: str, trust: Trust | None = None) -> None:
    with pytest.raises(InputError) as caught:
        placed(recipe, file, trust or Trust())
    said = " ".join(filter(None, (caught.value.fact, caught.value.note, caught.value.hint)))
    assert all(word in said for word in (str(file), *words)), said


def test_paths_are_relative_to_the_recipe(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _calibrating("data/x.npz", "data/x.npz")
    monkeypatch.chdir(tmp_path)
    assert placed(recipe, file, Trust()) == _calibrating("recipes/data/x.npz", "recipes/data/x.npz")
    assert placed(recipe, Path("recipes/r.yaml"), Trust()) == placed(recipe, file, Trust())
    monkeypatch.chdir(file.parent)
    assert placed(recipe, file, Trust()) == recipe
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert placed(recipe, file, Trust()) == _calibrating(*[str(file.parent / "data/x.npz")] * 2)
    assert placed(recipe, Path("../recipes/r.yaml"), Trust()) == _calibrating(*["../recipes/data/x.npz"] * 2)


def test_random_is_no_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(_calibrating("random"), file, Trust()) == _calibrating("random")
    monkeypatch.chdir(file.parent)
    assert placed(_calibrating("./random"), file, Trust()) == _calibrating("./random")


@pytest.mark.parametrize("path", ["../private.npz", "data/../data/x.npz", "/etc/passwd", "..", "data/../.."])
@pytest.mark.parametrize("key", ["data", "labels"])
def test_paths_that_lead_out_are_refused(file: Path, path: str, key: str) -> None:
    recipe = _calibrating(path) if key == "data" else _calibrating("data/x.npz", path)
    _refused(recipe, file, f"calibration: {key} is outside the recipe's folder: {path}", "--allow-paths")
    _refused(recipe, file, path, trust=Trust(code=True))
    assert placed(recipe, file, Trust(paths=True)) is not None


def test_a_path_that_is_allowed_is_the_one_that_was_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for path in ("../private.npz", "/etc/passwd"):
        assert placed(_calibrating(path), file, Trust(paths=True)) == _calibrating(path)


@pytest.mark.parametrize("link", ["link.npz", "link", "data/link.npz", "data/cat", "data/cat/link.npz"])
def test_links_that_lead_out_are_refused(file: Path, tmp_path: Path, link: str) -> None:
    path = file.parent / link
    path.parent.mkdir(exist_ok=True)
    is_folder = "." not in path.name
    path.symlink_to(tmp_path / "elsewhere" if is_folder else tmp_path / "private.npz")
    for named in {link, link.partition("/")[0], f"{link}/y.npz" if is_folder else link}:
        _refused(_calibrating(named), file, "is a link that leads out of it", "--allow-paths")


def test_links_that_stay_inside_are_followed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "link.npz").symlink_to("data/x.npz")
    monkeypatch.chdir(file.parent)
    assert placed(_calibrating("link.npz"), file, Trust()) == _calibrating("link.npz")


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (_calibrating("evil.py:data"), "calibration: data"),
        (Recipe(steps=(), evaluate=EvaluateSpec(data="evil.py:data")), "evaluate: data"),
        (Recipe(steps=(), evaluate=EvaluateSpec(data="x", metric="evil.py:data")), "evaluate: metric"),
        (Recipe(steps=(), evaluate=EvaluateSpec(data="x", metric=("top1", "evil.py:data"))), "evaluate: metric"),
        (Recipe(steps=(), gates=Gates(metric="evil.py:data")), "gates: metric"),
        (Recipe(steps=(), gates=Gates(metric=("cosine", "y=evil.py:data"))), "gates: metric"),
    ],
)
def test_code_is_refused(file: Path, recipe: Recipe, what: str) -> None:
    for trust in (Trust(), Trust(paths=True)):
        _refused(recipe, file, f"{what} names code to run", "evil.py:data", "--allow-code", trust=trust)
    assert placed(recipe, file, Trust(code=True)) is not None


def test_code_elsewhere_needs_both(file: Path) -> None:
    recipe = _calibrating("../evil.py:data")
    _refused(recipe, file, "--allow-code --allow-paths")
    _refused(recipe, file, "--allow-code, if", trust=Trust(paths=True))
    _refused(recipe, file, "--allow-paths, if", trust=Trust(code=True))
    assert placed(recipe, file, ALL) is not None


def test_code_is_placed_too(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = EvaluateSpec(data="gen.py:f", metric=("top1", "m.py:g", "logits=cosine"))
    expected = EvaluateSpec(data="recipes/gen.py:f", metric=("top1", "recipes/m.py:g", "logits=cosine"))
    assert placed(Recipe(steps=(), evaluate=spec), file, Trust(code=True)).evaluate == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("trt_extra_plugin_lib_paths", "evil"),
        ("backend_path", "QnnCpu"),
        ("gpu_external_alloc", "140000000"),
        ("user_compute_stream", "1"),
        ("ModelCacheDirectory", "x"),
        ("cache_dir", "x"),
        ("x", "/tmp/evil"),
        ("x", "libevil.so"),
        ("x", "libevil.so.1"),
        ("x", "a b"),
        ("x", "..\\evil.dll"),
    ],
)
def test_options_of_providers_that_load_or_write_are_refused(file: Path, key: str, text: str) -> None:
    recipe = Recipe(steps=(), bench=BenchSpec(provider_options={key: text}))
    _refused(recipe, file, key, "--allow-code", trust=Trust(paths=True))
    assert placed(recipe, file, Trust(code=True)) == recipe


def test_other_options_of_providers_are_not(file: Path) -> None:
    options = {"device_id": "1", "trt_fp16_enable": "True", "device_type": "HETERO:GPU.0,CPU", "gpu_mem_limit": "1073"}
    options |= {"arena_extend_strategy": "kNextPowerOfTwo", "trt_profile_min_shapes": "x:1x3x8x8", "tf32": ""}
    recipe = Recipe(steps=(), bench=BenchSpec(provider_options=options))
    assert placed(recipe, file, Trust()) == recipe


def test_what_a_printed_recipe_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data, flags in {
        "random": (),
        "x.npz": (),
        "/x.npz": ("--allow-paths",),
        "gen.py:f": ("--allow-code",),
        "/gen.py:f": ("--allow-code", "--allow-paths"),
    }.items():
        assert needed(_calibrating(data)) == flags
        assert has_paths(_calibrating(data)) == (data in {"x.npz", "gen.py:f"})
