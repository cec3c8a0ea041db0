"""Train glyph_mobile: a MobileNetV3-style classifier of letters and digits, evaluated on unseen fonts.

    python sample_models/train/glyph_mobile.py --out sample_models

It needs the fonts of the Debian packages that glyphs.FONT_PACKAGES names, and a few minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from glyphs import CLASSES, SIDE, TRAIN_FAMILIES, UNSEEN_FAMILIES, draw_glyphs, find_families
from torch import Tensor, nn
from training import Schedule, export, fit, save_samples, smoothed_cross_entropy, top1

TRAIN_IMAGES = 40_000
UNSEEN_IMAGES = 2_500
SHIPPED_CALIBRATION = 32
SHIPPED_EVALUATION = 200
SCHEDULE = Schedule(epochs=5, batch=100, peak_lr=6e-3, weight_decay=0.02, warmup_share=0.2)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the mean of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.relu(self.squeeze(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite or not, project; added to its input where the shapes agree."""

    def __init__(
        self, channels: int, out: int, *, stride: int = 1, expand: int = 3, excite: bool = False
    ) -> None:
        super().__init__()
        hidden = channels * expand
        self.residual = channels == out and stride == 1
        self.body = nn.Sequential(
            *conv_bn(channels, hidden, 1),
            nn.Hardswish(),
            *conv_bn(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Hardswish(),
            SqueezeExcite(hidden) if excite else nn.Identity(),
            *conv_bn(hidden, out, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def conv_bn(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias and its BatchNorm."""
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out)]


def make_model() -> nn.Module:
    """The whole network: 60,120 parameters."""
    return nn.Sequential(
        *conv_bn(1, 16, 3, stride=2),
        nn.Hardswish(),
        InvertedResidual(16, 16),
        InvertedResidual(16, 24, stride=2),
        InvertedResidual(24, 24),
        InvertedResidual(24, 24, excite=True),
        InvertedResidual(24, 40, stride=2, excite=True),
        InvertedResidual(40, 40, excite=True),
        *conv_bn(40, 160, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, len(CLASSES)),
    )


def as_input(images: np.ndarray) -> np.ndarray:
    """Bytes to what the model reads: (n, 1, 32, 32) float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)


def to_unit(batch: Tensor) -> Tensor:
    """The same for one training batch, so that the training set stays in bytes."""
    return batch[:, None].float() / 255


def main() -> None:
    """Draw the images, train, and write `glyph_mobile/` under --out."""
    parser = argparse.ArgumentParser(description="Train the glyph_mobile sample model.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="glyph_mobile/ is written here"
    )
    parser.add_argument(
        "--fonts", type=Path, default=Path("/usr/share/fonts"), metavar="DIR", help="where fonts are"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads; sums depend on it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()

    images, labels = draw_glyphs(find_families(args.fonts, TRAIN_FAMILIES), TRAIN_IMAGES, seed=1)
    unseen, unseen_labels = draw_glyphs(find_families(args.fonts, UNSEEN_FAMILIES), UNSEEN_IMAGES, seed=2)
    print(f"drew {len(images) + len(unseen)} glyphs in {time.perf_counter() - started:.0f} s", flush=True)

    torch.manual_seed(0)
    model = make_model()
    loss = smoothed_cross_entropy(SCHEDULE)
    fit(model, torch.from_numpy(images), torch.from_numpy(labels), SCHEDULE, loss, augment=to_unit)

    folder = args.out / "glyph_mobile"
    folder.mkdir(parents=True, exist_ok=True)
    export(model, torch.zeros(2, 1, SIDE, SIDE), folder / "model.onnx", "image", 17, keep_bn=True)
    shipped = slice(SHIPPED_EVALUATION)
    save_samples(
        folder,
        "image",
        as_input(images[:SHIPPED_CALIBRATION]),
        as_input(unseen[shipped]),
        unseen_labels[shipped],
    )
    accuracy = top1(model, torch.from_numpy(as_input(unseen)), torch.from_numpy(unseen_labels))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, top-1 {accuracy:.3f} on {len(unseen)} glyphs of unseen fonts")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
