"""Presets, and preprocessings as Hugging Face's preprocessor_config.json says them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modelopt.core.errors import InputError
from modelopt.data import Preprocess, open_data
from modelopt.data.preprocess_config import PRESETS, read_preprocess
from modelopt.recipe import paths, trust
from modelopt.recipe.recipe import DataSpec, Recipe
from tests.command_line import modelopt, sample
from tests.data_tools import spec

IMAGENET = {
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 2,
}


def config(folder: Path, **changes: Any) -> str:
    said = {key: value for key, value in {**IMAGENET, **changes}.items() if value is not None}
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(said))
    return str(path)


def test_a_config_is_the_preset_with_its_size(tmp_path: Path) -> None:
    found = read_preprocess(config(tmp_path))
    assert found == read_preprocess("imagenet,resize=224x224")
    assert found.scale == 1 / 255


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"size": 224, "do_center_crop": None, "resample": 3},
            "resize=224x224,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,color=rgb,resample=bicubic",
        ),
        (
            {"size": {"height": 32, "width": 64}, "do_center_crop": False, "do_normalize": False},
            "resize=32x64,scale=1/255,mean=0,std=1,color=rgb",
        ),
        (
            {"size": 224, "crop_size": 224, "do_rescale": False, "do_normalize": False},
            "resize=224x224,scale=1,mean=0,std=1,color=rgb,crop=center",
        ),
        (
            {"do_resize": False, "do_center_crop": False, "image_mean": 0.5, "image_std": 0.5},
            "scale=1/255,mean=0.5,std=0.5,color=rgb",
        ),
    ],
)
def test_configs_say_what_the_text_says(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    assert read_preprocess(config(tmp_path, **changes)) == Preprocess.parse(text)


def test_a_config_of_sound_says_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"sampling_rate": 16000, "feature_size": 1, "do_normalize": False}))
    assert read_preprocess(str(path)) == Preprocess(rate=16000)
    for change in ({"do_normalize": True}, {"feature_size": 80}, {"sampling_rate": "fast"}):
        path.write_text(json.dumps({"sampling_rate": 16000, "feature_size": 1, "do_normalize": False, **change}))
        with pytest.raises(InputError):
            read_preprocess(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_center_crop": None}, "'size' is not supported"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "'size' is not supported"),
        ({"size": {"height": 256, "width": 256}}, "'do_center_crop' is not supported"),
        ({"do_resize": False}, "'do_center_crop' is not supported"),
        ({"size": {"shortest_edge": 200}}, "'crop_size' is not supported"),
        ({"resample": 5}, "'resample' is not supported"),
        ({"resample": [2]}, "'resample' is not supported"),
        ({"do_pad": True}, "'do_pad' is not supported"),
        ({"image_mean": ["a"]}, "'image_mean' is not supported"),
        ({"image_std": [0, 0, 0]}, "may not be zero"),
        ({"rescale_factor": float("nan")}, "is not a number"),
        ({"size": {"height": 10**6, "width": 10**6}, "do_center_crop": None}, "is not a size"),
    ],
)
def test_what_a_config_says_and_cannot_be_done_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_preprocess(config(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[" * 100_000, b"\xff"])
def test_a_malformed_config_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_preprocess(str(tmp_path / "c.json"))
    assert "\n" not in caught.value.fact


def test_presets_yield_to_what_is_said_after_them() -> None:
    for name in PRESETS:
        assert read_preprocess(name) == Preprocess.parse(PRESETS[name])
    found = read_preprocess("clip,resize=8x8,keep-aspect,mean=0")
    assert (found.resize, found.crop, found.keep_aspect, found.mean) == ((8, 8), None, True, (0,))
    assert found.std == read_preprocess("clip").std
    with pytest.raises(InputError, match="unknown preprocessing 'imagnet'") as caught:
        read_preprocess("imagnet")
    assert "imagenet" in (caught.value.hint or "")


def test_images_are_resized_with_the_filter_that_is_said(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name in ("bilinear", "bicubic", "lanczos", "nearest"):
        (found,) = open_data(
            str(tmp_path / "a.png"),
            [spec("x", 1, 5, 5, 3)],
            preprocess=Preprocess.parse(f"scale=1,mean=0,std=1,resample={name}"),
        )
        expected = Image.fromarray(pixels).resize((5, 5), Image.Resampling[name.upper()])
        assert np.array_equal(found.feeds["x"][0], np.asarray(expected, np.float32)), name


def test_a_recipe_may_name_a_config_and_a_tokenizer_beside_it_only(tmp_path: Path) -> None:
    inside = Recipe(steps=(), calibration=DataSpec(data="random", preprocess="c.json"))
    (tmp_path / "recipe.yaml").touch()
    placed = trust.placed(inside, tmp_path / "recipe.yaml", trust.Trust(paths=True))
    assert placed.calibration is not None
    assert placed.calibration.preprocess == str(tmp_path / "c.json")
    assert trust.has_paths(inside)
    outside = Recipe(steps=(), calibration=DataSpec(data="random", preprocess="/etc/c.json"))
    with pytest.raises(InputError, match="preprocess"):
        trust.placed(outside, tmp_path / "recipe.yaml", trust.Trust())
    tokenizer = Recipe(steps=(), calibration=DataSpec(data="random", tokenizer="/etc/t.json"))
    with pytest.raises(InputError, match="tokenizer"):
        trust.placed(tokenizer, tmp_path / "recipe.yaml", trust.Trust())
    plain = paths.without_folders(outside).calibration
    assert plain is not None
    assert plain.preprocess == "c.json"


def test_the_command_reads_presets_and_configs(tmp_path: Path) -> None:
    folder = sample("ppocr_cls").with_name("eval")
    asked = ("evaluate", sample("ppocr_cls"), "--eval", folder, "--eval-limit", "8", "--preprocess")
    path = config(tmp_path, size={"height": 48, "width": 192}, do_center_crop=False, image_mean=0.5, image_std=0.5)
    by_config = modelopt(*asked, path, cwd=tmp_path).succeeded()
    by_preset = modelopt(*asked, "vit", cwd=tmp_path).succeeded()
    assert b"top1" in by_config.out
    assert by_config.out.splitlines()[0] == by_preset.out.splitlines()[0]
    modelopt(*asked, "no.json", cwd=tmp_path).refused(2, "no such file")
    modelopt(*asked, "imagnet", cwd=tmp_path).refused(2, "imagenet")
