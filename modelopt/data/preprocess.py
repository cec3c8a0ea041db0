"""How an image becomes a feed, as a value that prints back as the text that made it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from modelopt.core.errors import InputError, did_you_mean

LAYOUTS = ("nchw", "nhwc", "chw", "hwc", "nhw", "hw")
"""Orders of axes: n batch, c channels, h height, w width; without c the image is gray."""

COLORS = ("rgb", "bgr", "gray")

RESAMPLING = ("bilinear", "bicubic", "lanczos", "nearest")
"""How an image is resized; the first is what is done where nothing is said."""

MAX_SIDE = 16384
"""The largest height or width to resize to."""

RATES = range(1_000, 400_001)
"""The rates of sound, in values per second, that are read and made."""

_EXAMPLE = "resize=224x224,layout=nchw,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,color=rgb"


@dataclass(frozen=True)
class Preprocess:
    """From pixels 0..255 to a feed: resize, pick colours, then ``(p * scale - mean) / std``, then order the axes.

    What is None is derived from the model's input when the images are opened, and said in the data set's notes.

    Attributes:
        resize: Height and width in pixels.
        layout: One of `LAYOUTS`.
        scale: The factor on each pixel value, not zero.
        mean: Subtracted after scaling: one value, or one per channel in the order of `color`.
        std: Divided by, not zero: one value, or one per channel.
        color: One of `COLORS`.
        crop: The share of the largest centred box of the target's aspect ratio that is kept: 1.0 (``crop=center``)
            covers the target and cuts what sticks out; 0.875 (``crop=center:0.875``) is the usual 256-then-224.
        resample: One of `RESAMPLING`.
        rate: Of sound: values per second.
        keep_aspect: Without a crop: fit inside the target and fill the rest with black.
    """

    resize: tuple[int, int] | None = None
    layout: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    color: str | None = None
    crop: float | None = None
    keep_aspect: bool = False
    rate: int | None = None
    resample: str | None = None

    @staticmethod
    def parse(text: str, presets: tuple[str, ...] = ()) -> Preprocess:
        """Parse ``resize=HxW,layout=…,scale=1/255,mean=a:b:c,std=a:b:c,color=…,crop=center,keep-aspect``.

        Every part is optional and the order is free.

        Args:
            text: The text.
            presets: Names that stand for a preprocessing elsewhere, for the hint of an error.

        Raises:
            InputError: An unknown or repeated key, or a value that is not one.
        """
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, has_value, value = (piece.strip() for piece in part.partition("="))
            name = key.replace("-", "_")
            if key not in _KEYS:
                raise InputError(
                    f"unknown preprocessing '{key}'",
                    note=f"known are {', '.join((*_KEYS, *presets))}",
                    hint=did_you_mean(key, (*_KEYS, *presets)) or f"for example {_EXAMPLE}",
                )
            if name in values:
                raise InputError(f"preprocessing '{key}' is given twice")
            if bool(has_value) == (key == "keep-aspect"):
                raise InputError(f"preprocessing '{part}' is not one", hint=f"write {_KEYS[key]}")
            values[name] = _READERS[key](value) if has_value else True
        return Preprocess(**values)

    def __str__(self) -> str:
        written = {
            "resize": self.resize and "x".join(map(str, self.resize)),
            "layout": self.layout,
            "scale": self.scale and _text(self.scale),
            "mean": self.mean and ":".join(map(_text, self.mean)),
            "std": self.std and ":".join(map(_text, self.std)),
            "color": self.color,
            "rate": self.rate and str(self.rate),
            "resample": self.resample,
            "crop": self.crop and ("center" if self.crop == 1 else f"center:{_text(self.crop)}"),
        }
        parts = [f"{key}={value}" for key, value in written.items() if value]
        return ",".join([*parts, *(["keep-aspect"] if self.keep_aspect else [])])


def _text(value: float) -> str:
    """The shortest text that reads back as the same number: ``1/255`` rather than ``0.00392156862745098``."""
    plain = repr(value).removesuffix(".0")
    ratio = Fraction(value).limit_denominator(1000)
    if len(plain) > 8 and ratio.numerator / ratio.denominator == value:
        return f"{ratio.numerator}/{ratio.denominator}"
    return plain


def _number(text: str, example: str) -> float:
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"'{text}' is not a number", hint=f"write {example}")
    return value


def _nonzero(text: str, example: str) -> float:
    value = _number(text, example)
    if value == 0:
        raise InputError(f"'{example.partition('=')[0]}' may not be zero", hint=f"write {example}")
    return value


def _resize(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not all(side.isascii() and side.isdigit() and len(side) < 6 for side in (height, width)):
        raise InputError(f"'{text}' is not a size", hint=f"write {_KEYS['resize']}: height x width in pixels")
    if not all(1 <= int(side) <= MAX_SIDE for side in (height, width)):
        raise InputError(f"resize={text} is out of range", note=f"sides are 1 to {MAX_SIDE} pixels")
    return int(height), int(width)


def _rate(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) in RATES):
        raise InputError(f"'{text}' is not a rate", hint=f"write {_KEYS['rate']}: values per second, 1000 to 400000")
    return int(text)


def _crop(text: str) -> float:
    place, colon, share = text.partition(":")
    value = _number(share, _KEYS["crop"]) if colon else 1.0
    if place != "center" or not 0 < value <= 1:
        raise InputError(f"'{text}' is not a crop", hint="write crop=center, or crop=center:0.875")
    return value


def _one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise InputError(f"'{text}' is none of {', '.join(known)}", hint=did_you_mean(text, known))
        return text

    return read


_KEYS = {
    "resize": "resize=224x224",
    "layout": "layout=nchw",
    "scale": "scale=1/255",
    "mean": "mean=0.485:0.456:0.406",
    "std": "std=0.229:0.224:0.225",
    "color": "color=rgb",
    "crop": "crop=center",
    "rate": "rate=16000",
    "resample": "resample=bicubic",
    "keep-aspect": "keep-aspect",
}

_READERS: dict[str, Callable[[str], object]] = {
    "resize": _resize,
    "layout": _one_of(LAYOUTS),
    "scale": lambda text: _nonzero(text, _KEYS["scale"]),
    "mean": lambda text: tuple(_number(piece, _KEYS["mean"]) for piece in text.split(":")),
    "std": lambda text: tuple(_nonzero(piece, _KEYS["std"]) for piece in text.split(":")),
    "color": _one_of(COLORS),
    "crop": _crop,
    "rate": _rate,
    "resample": _one_of(RESAMPLING),
}
