"""Draw labelled 32x32 images of single letters and digits with the free fonts of some Debian packages.

The fonts come from the packages that FONT_PACKAGES names; no font is shipped, only pictures of glyphs. The
families of UNSEEN_FAMILIES draw the evaluation images and no image that the model learns from.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CLASSES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SIDE = 32
CANVAS = 56

FONT_PACKAGES = (
    "fonts-adf-baskervald fonts-adf-gillius fonts-adf-universalis fonts-anonymous-pro fonts-cabin "
    "fonts-cantarell fonts-comic-neue fonts-courier-prime fonts-crosextra-caladea fonts-dejavu "
    "fonts-ebgaramond fonts-firacode fonts-freefont-ttf fonts-inconsolata fonts-jetbrains-mono fonts-lato "
    "fonts-liberation fonts-linuxlibertine fonts-oldstandard fonts-open-sans fonts-oxygen fonts-paratype "
    "fonts-quattrocento fonts-roboto-unhinted fonts-sil-gentium-basic fonts-vollkorn"
)

TRAIN_FAMILIES = {
    "Baskervald": "BaskervaldADFStd*.otf",
    "Cabin": "Cabin-*.otf",
    "Cantarell": "Cantarell-*.otf",
    "Comic Neue": "ComicNeue-*.otf",
    "Courier Prime": "Courier Prime*.otf",
    "DejaVu Sans": "DejaVuSans[-C.]*ttf",
    "DejaVu Sans Mono": "DejaVuSansMono*.ttf",
    "DejaVu Serif": "DejaVuSerif*.ttf",
    "EB Garamond": "EBGaramond*.otf",
    "Fira Code": "FiraCode-*.ttf",
    "FreeMono": "FreeMono*.ttf",
    "FreeSans": "FreeSans*.ttf",
    "FreeSerif": "FreeSerif*.ttf",
    "Gentium": "Gen*Bas*.ttf",
    "Gillius": "GilliusADF*.otf",
    "Inconsolata": "Inconsolata.otf",
    "Lato": "Lato-*.ttf",
    "Liberation Mono": "LiberationMono-*.ttf",
    "Liberation Sans": "LiberationSans*.ttf",
    "Liberation Serif": "LiberationSerif-*.ttf",
    "Open Sans": "OpenSans-*.ttf",
    "Quattrocento": "Quattrocento-*.otf",
    "Roboto": "Roboto*.ttf",
    "Universalis": "UniversalisADF*.otf",
}

UNSEEN_FAMILIES = {
    "Anonymous Pro": "Anonymous Pro*.ttf",
    "Caladea": "Caladea-*.ttf",
    "JetBrains Mono": "JetBrainsMono-*.ttf",
    "Linux Biolinum": "LinBiolinum_R*.otf",
    "Linux Libertine": "LinLibertine_R*.otf",
    "Old Standard": "OldStandard-*.ttf",
    "Oxygen": "Oxygen*.ttf",
    "PT Mono": "PTM*.ttf",
    "PT Sans": "PT[SCN]*.ttf",
    "PT Serif": "PT[FZ]*.ttf",
    "Vollkorn": "Vollkorn-*.ttf",
}

Family = list[Path]


def find_families(fonts: Path, patterns: dict[str, str]) -> list[Family]:
    """The font files of each family, in an order that does not depend on the file system."""
    families = [sorted(fonts.rglob(pattern), key=lambda path: path.name) for pattern in patterns.values()]
    missing = [name for name, family in zip(patterns, families, strict=True) if not family]
    if missing:
        raise SystemExit(
            f"no font file of {', '.join(missing)} under {fonts}\n"
            f"hint: apt-get install --no-install-recommends {FONT_PACKAGES}"
        )
    return families


def draw_glyphs(families: list[Family], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images (uint8, count x 32 x 32) and their class indices; all families are equally likely."""
    random = np.random.default_rng(seed)
    images = np.empty((count, SIDE, SIDE), np.uint8)
    labels = random.integers(len(CLASSES), size=count)
    for index, label in enumerate(labels):
        family = families[random.integers(len(families))]
        face = family[random.integers(len(family))]
        images[index] = _draw(random, CLASSES[label], face)
    return images, labels


def _draw(random: np.random.Generator, character: str, face: Path) -> np.ndarray:
    """One glyph: turned, slanted, scaled, shifted, sometimes blurred, in random grey levels, with noise."""
    font = _font(face, int(random.integers(20, 31)))
    image = Image.new("L", (CANVAS, CANVAS), 0)
    left = CANVAS / 2 - font.getlength(character) / 2
    top = CANVAS / 2 - 0.6 * font.getmetrics()[0]
    ImageDraw.Draw(image).text((left, top), character, font=font, fill=255)
    image = image.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, _random_affine(random), Image.Resampling.BILINEAR
    )
    if random.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.0)))
    background = random.uniform(0.0, 0.45)
    contrast = random.uniform(0.3, 0.55)
    ink = (
        background - contrast if random.random() < 0.25 and background >= contrast else background + contrast
    )
    pixels = background + (ink - background) * np.asarray(image, np.float64) / 255
    pixels += random.normal(0.0, random.uniform(0.01, 0.12), pixels.shape)
    return (np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)


@cache
def _font(face: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(face), size, layout_engine=ImageFont.Layout.BASIC)


def _random_affine(random: np.random.Generator) -> tuple[float, ...]:
    """The map from a pixel of the small image to one of the canvas, about the two centres."""
    angle = math.radians(random.uniform(-14, 14))
    scale = random.uniform(0.85, 1.2)
    slant = random.uniform(-0.25, 0.25)
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = np.array([[cosine, sine + slant], [-sine, cosine]])
    shift = random.uniform(-2.5, 2.5, size=2)
    offset = CANVAS / 2 + shift - matrix @ np.array([SIDE / 2, SIDE / 2])
    return (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
