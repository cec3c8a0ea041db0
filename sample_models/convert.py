"""Convert the two third-party models' data from its source form to the layout of this folder.

    python sample_models/convert.py SOURCE --out sample_models

SOURCE holds `ppocr_cls/` and `swift_f0/`, each with its `model.onnx`, which is copied byte for byte, and:

    ppocr_cls/calib.npz   x (n, 3, 48, 192) float32: the input, three equal channels, zero beside the text
    ppocr_cls/eval.npz    gray (n, 48, 192) uint8, width (n,) columns that hold text, labels (n,) 0 or 1
    swift_f0/calib/*.npz  audio (1, samples) float32, fmin and fmax scalars
    swift_f0/eval.npz     pcm8 (n, samples) int8, f0 (n, frames) float32: the true pitch in Hz

It needs numpy and Pillow.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

LOWEST_PITCH_HZ = 46.875
HIGHEST_PITCH_HZ = 2093.75
PCM8_SCALE = 127
TEXT_CLASSES = ("0", "180")  # degrees; in alphabetical order, so that the position is the class index
GREY_OF_ZERO = 128  # the byte next to 127.5, which the preprocessing (x/255 - 0.5) / 0.5 takes to zero


def convert_ppocr_cls(source: Path, out: Path) -> None:
    """Write the text lines as 8-bit grey PNG files of 48x192, the evaluation ones in a folder per class."""
    calib = np.load(source / "calib.npz")["x"][:, 0]
    calib_pixels = np.rint((calib * 0.5 + 0.5) * 255).astype(np.uint8)  # rint takes 127.5 to 128
    for index, pixels in enumerate(calib_pixels):
        save_png(pixels, out / "calib" / f"{index:02d}.png")
    evaluation = np.load(source / "eval.npz")
    rows = zip(evaluation["gray"], evaluation["width"], evaluation["labels"], strict=True)
    for index, (pixels, width, label) in enumerate(rows):
        padded = pixels.copy()
        padded[:, width:] = GREY_OF_ZERO
        save_png(padded, out / "eval" / TEXT_CLASSES[label] / f"{index:03d}.png")


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write one grey image, making its folder first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, optimize=True)


def convert_swift_f0(source: Path, out: Path) -> None:
    """Write calib.npz and eval.npz: axis 0 of `audio` is the sample, `fmin` and `fmax` hold for all."""
    pieces = [np.load(path)["audio"] for path in sorted((source / "calib").glob("*.npz"))]
    calib_pcm8 = np.rint(np.concatenate(pieces) * PCM8_SCALE)  # half the size, and as the evaluation data are
    save_audio(out / "calib.npz", calib_pcm8 / np.float32(PCM8_SCALE))
    evaluation = np.load(source / "eval.npz")
    audio = evaluation["pcm8"].astype(np.float32) / np.float32(PCM8_SCALE)
    save_audio(out / "eval.npz", audio, label=evaluation["f0"].astype(np.float32))


def save_audio(path: Path, audio: np.ndarray, **labels: np.ndarray) -> None:
    """Write the model's three inputs, and the labels if there are any."""
    np.savez_compressed(
        path,
        audio=audio.astype(np.float32),
        fmin=np.array(LOWEST_PITCH_HZ, np.float32),
        fmax=np.array(HIGHEST_PITCH_HZ, np.float32),
        **labels,
    )


def main() -> None:
    """Convert both models."""
    parser = argparse.ArgumentParser(description="Convert the third-party sample models' data.")
    parser.add_argument("source", type=Path, help="holds ppocr_cls/ and swift_f0/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="both folders go here")
    args = parser.parse_args()
    for name, convert in (("ppocr_cls", convert_ppocr_cls), ("swift_f0", convert_swift_f0)):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.source / name / "model.onnx", folder / "model.onnx")
        convert(args.source / name, folder)


if __name__ == "__main__":
    main()
