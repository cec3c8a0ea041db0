"""What ``--preprocess`` takes besides a list of settings: a preset, or a ``preprocessor_config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from modelopt.core.errors import InputError
from modelopt.data import user_files
from modelopt.data.preprocess import RESAMPLING, Preprocess

PRESETS = {
    "imagenet": "scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,color=rgb,crop=center:0.875",
    "clip": "scale=1/255,mean=0.48145466:0.4578275:0.40821073,std=0.26862954:0.26130258:0.27577711,color=rgb,"
    "crop=center,resample=bicubic",
    "siglip": "scale=1/255,mean=0.5,std=0.5,color=rgb,resample=bicubic",
    "vit": "scale=1/255,mean=0.5,std=0.5,color=rgb",
    "inception": "scale=1/255,mean=0.5,std=0.5,color=rgb,crop=center:0.875",
}
"""Preprocessings by name. The size is that of the model's input; ``NAME,resize=HxW`` says it where that is free."""

_MAX_CONFIG_BYTES = 1 << 20

_UNSUPPORTED = ("do_pad", "do_thumbnail", "do_align_long_axis", "do_flip_channel_order", "do_reduce_labels")
"""Steps that change the pixels and have no counterpart here."""

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters."""

_Json = Mapping[str, object]


def read_preprocess(text: str) -> Preprocess:
    """The preprocessing that a text stands for.

    Args:
        text: ``key=value`` pairs, the name of a preset, alone or with pairs after it that outrank it, or the path of a
            Hugging Face ``preprocessor_config.json``.

    Raises:
        InputError: It is none of these, or the file says what cannot be done here.
    """
    path = config_file(text)
    if path is not None:
        return _of_config(path)
    first, _, rest = text.partition(",")
    preset = PRESETS.get(first.strip())
    if preset is None:
        return Preprocess.parse(text, presets=tuple(PRESETS))
    said = {part.partition("=")[0].strip() for part in rest.split(",")}
    kept = [part for part in preset.split(",") if part.partition("=")[0] not in said]
    if "keep-aspect" in said:
        kept = [part for part in kept if not part.startswith("crop=")]
    return Preprocess.parse(",".join([*kept, rest]))


def config_file(text: str) -> Path | None:
    """The file that the text names; None where it names none."""
    return Path(text) if text.lower().endswith(".json") else None


def _of_config(path: Path) -> Preprocess:
    try:
        said = json.loads(user_files.read_bytes(path, _MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON", note=f"{type(error).__name__}: {error}"[:200]) from None
    if not isinstance(said, dict):
        raise InputError(f"{path} is no preprocessor_config.json", note="it holds no object")
    for step in _UNSUPPORTED:
        if said.get(step):
            raise _cannot(path, step)
    if "sampling_rate" in said:
        return _of_sound(path, said)
    if not {"image_mean", "size", "crop_size", "do_rescale", "do_normalize"} & said.keys():
        raise InputError(f"{path} is no preprocessor_config.json", note="it says nothing of images or of sound")
    parts = [*_geometry(path, said), *_values(path, said), "color=rgb"]
    try:
        return Preprocess.parse(",".join(parts))
    except InputError as error:
        raise InputError(f"{path}: {error.fact}", note=error.note) from None


def _of_sound(path: Path, said: _Json) -> Preprocess:
    if said.get("feature_size", 1) != 1:
        raise _cannot(path, "feature_size", "the model takes spectra, and sound is fed as it is")
    if said.get("do_normalize"):
        raise _cannot(path, "do_normalize", "sound is fed as it is, between -1 and 1")
    return Preprocess.parse(f"rate={said['sampling_rate']}")


def _geometry(path: Path, said: _Json) -> list[str]:
    """``resize``, ``crop`` and ``resample``."""
    crop = _size(path, said, "crop_size") if said.get("do_center_crop") else None
    if not said.get("do_resize", "size" in said):
        if crop is not None:
            raise _cannot(path, "do_center_crop", "without do_resize the crop depends on the size of the image")
        return []
    number = said.get("resample", 2)
    if not isinstance(number, int) or number not in _FILTERS:
        raise _cannot(path, "resample")
    filters = [] if _FILTERS[number] == RESAMPLING[0] else [f"resample={_FILTERS[number]}"]
    size = said.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else size if crop is not None else None
    if shortest is None or not isinstance(shortest, int):
        height, width = _size(path, said, "size")
        if crop not in (None, (height, width)):
            raise _cannot(path, "do_center_crop", "the image is resized to another shape before it is cut")
        return [f"resize={height}x{width}", *filters]
    if crop is None or (isinstance(size, Mapping) and "longest_edge" in size):
        raise _cannot(path, "size", "the size of the result depends on the image")
    share = max(crop) / shortest if shortest > 0 else 0.0
    if not 0 < share <= 1 or crop[0] != crop[1]:
        raise _cannot(path, "crop_size")
    return [f"resize={crop[0]}x{crop[1]}", f"crop=center:{max(crop)}/{shortest}", *filters]


def _values(path: Path, said: _Json) -> list[str]:
    """``scale``, ``mean`` and ``std``."""
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    parts = [f"scale={_number(path, 'rescale_factor', factor)}"]
    if said.get("do_normalize"):
        for key, name in (("mean", "image_mean"), ("std", "image_std")):
            found = said.get(name)
            values = found if isinstance(found, list) else [found]
            parts.append(f"{key}={':'.join(_number(path, name, value) for value in values)}")
    else:
        parts += ["mean=0", "std=1"]
    return parts


def _number(path: Path, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _cannot(path, name)
    return repr(value)


def _size(path: Path, said: _Json, name: str) -> tuple[int, int]:
    """The height and width of ``{"height": H, "width": W}`` or of one number."""
    size = said.get(name)
    sides = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    height, width = sides
    if isinstance(height, bool) or not isinstance(height, int) or not isinstance(width, int):
        raise _cannot(path, name)
    return height, width


def _cannot(path: Path, name: str, why: str | None = None) -> InputError:
    return InputError(
        f"{path}: what it says of '{name}' is not supported",
        note=why,
        hint="prepare the inputs in a file.py:function, or write --preprocess out where that comes near",
    )
