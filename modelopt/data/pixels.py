"""From an image file to an array: decoding what may be hostile, then what `Preprocess` says."""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import fixed_size
from modelopt.data.dtypes import holds_floats, numpy_dtype
from modelopt.data.preprocess import RESAMPLING, Preprocess

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000
"""The largest image that is decoded, 64 MP: a PNG of a few KB may declare 65,535 × 65,535."""

_ALWAYS_DECODED_PIXELS = 16_000_000
_MAX_PIXELS_PER_BYTE = 64
"""What an image of more than 16 MP may decode to, by the size of its file: photographs have less than 10 pixels a byte,
a PNG of one colour 1000."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")

_BROKEN = (
    *(OSError, ValueError, TypeError, SyntaxError, LookupError, EOFError, RuntimeError, AttributeError),
    *(MemoryError, OverflowError, struct.error, zlib.error, ZeroDivisionError),
)
"""What Pillow raises on malformed images (a broken PNG is a SyntaxError)."""


@dataclass(frozen=True)
class PixelPlan:
    """A `Preprocess` with everything filled in for one model input.

    Attributes:
        spec: The input that it feeds.
        layout: The order of axes, e.g. ``"nchw"``.
        height: Target height in pixels; None keeps the image's, or its aspect ratio where only `width` is known.
        width: Target width in pixels, likewise.
        color: ``"rgb"``, ``"bgr"`` or ``"gray"``.
        scale: The factor on pixel values; None feeds raw pixels to an integer input.
        mean: Subtracted after scaling, one value or one per channel.
        std: Divided by, one value or one per channel.
        crop: The share of the centred box that is kept, or None.
        keep_aspect: Fit inside the target and fill with black.
        resample: How it is resized, one of `preprocess.RESAMPLING`.
        guesses: What the model's input did not say.
    """

    spec: TensorSpec
    layout: str
    height: int | None
    width: int | None
    color: str
    scale: float | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float | None
    keep_aspect: bool
    resample: str
    guesses: tuple[str, ...]

    @property
    def batch(self) -> int | None:
        """The number of images per feed that the model fixes; None where it is free."""
        if not self.layout.startswith("n"):
            return 1
        return fixed_size(self.spec.shape[0]) if self.spec.shape else None


def decode(path: Path, color: str) -> Image.Image:
    """An upright 8-bit image: ``L`` for gray, else ``RGB``. Transparent parts are laid on white.

    Raises:
        InputError: Not a regular file, not a PNG, JPEG, BMP or WebP, damaged, or larger than `MAX_PIXELS` or
            than a file of its size is.
    """
    from PIL import Image, ImageOps

    size_bytes = user_files.regular_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as opened:
                _check_pixels(opened.width * opened.height, size_bytes, path)
                upright = ImageOps.exif_transpose(opened)
                return _eight_bit(upright).convert("L" if color == "gray" else "RGB")
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large", note=str(error)) from None
    except _BROKEN as error:
        raise InputError(
            f"{path} is damaged or not an image",
            note=f"{type(error).__name__}: {error}",
            hint="PNG, JPEG, BMP and WebP are read",
        ) from None


def _check_pixels(count: int, size_bytes: int, path: Path) -> None:
    limit = min(MAX_PIXELS, max(_ALWAYS_DECODED_PIXELS, _MAX_PIXELS_PER_BYTE * size_bytes))
    if count > limit:
        of_file = "" if limit == MAX_PIXELS else f" for a file of {size_bytes} bytes"
        raise InputError(f"{path} is too large", note=f"{count} pixels, the limit is {limit}{of_file}")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Bring 16-bit grays to 8 bits and lay transparency on white; other modes convert by themselves."""
    from PIL import Image

    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layered).convert("RGB")


def to_array(image: Image.Image, plan: PixelPlan) -> np.ndarray:
    """One image as the plan says, in the plan's layout without the batch axis, of the input's dtype."""
    pixels = np.asarray(_fit(image, plan))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if plan.color == "bgr":
        pixels = pixels[:, :, ::-1]
    dtype = numpy_dtype(plan.spec)
    if plan.scale is not None:
        work = np.dtype("float64" if plan.spec.dtype == "float64" else "float32")
        scale, mean, std = (np.array(value, work) for value in (plan.scale, plan.mean, plan.std))
        pixels = (pixels.astype(work) * scale - mean) / std
    axes = plan.layout.removeprefix("n")
    if "c" not in axes:
        pixels, order = pixels[:, :, 0], "hw"
    else:
        order = "hwc"
    return np.array(pixels.transpose([order.index(axis) for axis in axes]), dtype=dtype, order="C")


def _fit(image: Image.Image, plan: PixelPlan) -> Image.Image:
    from PIL import Image

    height, width = target_size(image.height, image.width, plan)
    filter_ = Image.Resampling[plan.resample.upper()]
    if plan.crop is not None:
        ratio = min(image.width / width, image.height / height) * plan.crop
        left, top = max(0.0, (image.width - width * ratio) / 2), max(0.0, (image.height - height * ratio) / 2)
        right, bottom = min(image.width, left + width * ratio), min(image.height, top + height * ratio)
        box = (left, top, right, bottom)
        return image.resize((width, height), filter_, box=box)
    if not plan.keep_aspect:
        return image.resize((width, height), filter_)
    ratio = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(
        image.resize(inner, filter_),
        ((width - inner[0]) // 2, (height - inner[1]) // 2),
    )
    return canvas


def target_size(height: int, width: int, plan: PixelPlan) -> tuple[int, int]:
    """Height and width to resize an image of this size to; one known side keeps the aspect ratio.

    Raises:
        InputError: The result would be larger than `MAX_PIXELS`.
    """
    wanted = (
        plan.height or (max(1, round(height * plan.width / width)) if plan.width else height),
        plan.width or (max(1, round(width * plan.height / height)) if plan.height else width),
    )
    if math.prod(wanted) > MAX_PIXELS:
        raise InputError(f"an image of {height}x{width} would become {wanted[0]}x{wanted[1]}: too large")
    return wanted


def resolve(preprocess: Preprocess, spec: TensorSpec) -> PixelPlan:
    """Fill in what the user left out from the model's input.

    Raises:
        InputError: The input cannot take an image, or contradicts what the user asked for.
    """
    if preprocess.rate is not None:
        raise InputError("images have no rate", hint="leave out rate, which is for sound")
    shape = spec.shape or ()
    layout = preprocess.layout or _guess_layout(spec)
    if spec.shape is None or len(layout) != len(shape) or spec.dtype in ("bool", "int8", "string"):
        raise InputError(
            f"no image in the layout {layout} fits the model's input {spec}",
            hint="feed arrays from a .npz, or write a file.py:function",
        )
    dims = dict(zip(layout, shape, strict=True))
    size = [fixed_size(dims[axis]) for axis in "hw"]
    height, width = preprocess.resize or size
    if any(known not in (None, asked) for known, asked in zip(size, (height, width), strict=True)):
        raise InputError(f"resize={height}x{width} does not fit the model's input {spec}")
    channels = fixed_size(dims.get("c", 1))
    color = preprocess.color or ("gray" if channels == 1 else "rgb")
    if channels not in (None, _channels(color)):
        raise InputError(f"color={color} has {_channels(color)} channels, the model's input is {spec}")

    scale = preprocess.scale
    if holds_floats(spec):
        scale = preprocess.scale or 1 / 255
    elif preprocess.scale or preprocess.mean or preprocess.std:
        raise InputError(f"raw pixels feed the model's input {spec}", hint="leave out scale, mean and std")
    for values in (preprocess.mean, preprocess.std):
        if values and len(values) not in (1, _channels(color)):
            raise InputError(f"{len(values)} values of mean or std for {_channels(color)} channels")
    return PixelPlan(
        spec=spec,
        layout=layout,
        height=height,
        width=width,
        color=color,
        scale=scale,
        mean=preprocess.mean or (0.0,),
        std=preprocess.std or (1.0,),
        crop=preprocess.crop,
        keep_aspect=preprocess.keep_aspect,
        resample=preprocess.resample or RESAMPLING[0],
        guesses=_guesses(preprocess, layout, color, scale),
    )


def _channels(color: str) -> int:
    return 1 if color == "gray" else 3


def _guess_layout(spec: TensorSpec) -> str:
    """From where 1 or 3 stands among the sizes; channels first where both or neither say so."""
    shape = spec.shape or ()
    if len(shape) == 4:
        return "nhwc" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "nchw"
    if len(shape) == 3:
        return "chw" if shape[0] in (1, 3) else "hwc" if shape[2] in (1, 3) else "nhw"
    return "hw"


def _guesses(preprocess: Preprocess, layout: str, color: str, scale: float | None) -> tuple[str, ...]:
    guesses = []
    if preprocess.layout is None:
        guesses.append(f"layout={layout}")
    if preprocess.color is None:
        guesses.append(f"color={color}")
    if preprocess.scale is None and scale is not None:
        guesses.append("scale=1/255")
    if scale is not None:
        guesses += [text for text, given in (("mean=0", preprocess.mean), ("std=1", preprocess.std)) if given is None]
    return tuple(guesses)
