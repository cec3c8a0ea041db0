"""Train the six digits_* models on the UCI optdigits images of scikit-learn: 8x8 pixels, ten classes.

    python sample_models/train/digits.py --out sample_models

Each model learns from 65 % of the 1,797 images and is evaluated on the other 35 %; a seed fixes the split.
Four models go through PyTorch's exporter; the two with subgraphs are built node by node in control_flow.py.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import control_flow
import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from training import Loss, Schedule, export, fit, save_samples, smoothed_cross_entropy, top1

CALIBRATION_SAMPLES = 64
PIXEL_NOISE = 0.08


@dataclass(frozen=True)
class Digits:
    """The training and the held-out part of optdigits, as rows of 64 pixels in [0, 1]."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load() -> Digits:
    """The seeded 65/35 split, stratified by class."""
    pixels, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        (pixels / 16).astype(np.float32), labels, test_size=0.35, random_state=0, stratify=labels
    )
    return Digits(train, train_labels, test, test_labels)


def noisy(batch: Tensor) -> Tensor:
    """Gaussian pixel noise."""
    return batch + PIXEL_NOISE * torch.randn_like(batch)


def noisy_and_shifted(batch: Tensor) -> Tensor:
    """Pixel noise, and for half of the batches a shift of the columns by at most one."""
    batch = noisy(batch)
    if torch.rand(()) < 0.5:
        batch = torch.roll(batch, int(torch.randint(-1, 2, ())), dims=3)
    return batch


class DepthwiseResidual(nn.Module):
    """A 3x3 depthwise and a 1x1 convolution, each with its BatchNorm, around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.pointwise_bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.depthwise_bn(self.depthwise(x)))
        return self.relu(x + self.pointwise_bn(self.pointwise(y)))


def make_mlp() -> nn.Module:
    """Three fully connected layers: so small that int8 cannot pay."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def make_cnn() -> nn.Module:
    """A small residual CNN with depthwise convolutions; every BatchNorm stays a node."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        DepthwiseResidual(24),
        nn.Conv2d(24, 48, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        DepthwiseResidual(48),
        DepthwiseResidual(48),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(48, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Attention(nn.Module):
    """Multi-head self-attention written out as MatMul, Softmax, MatMul."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        head_width = width // self.heads

        def split(t: Tensor) -> Tensor:
            return t.view(batch, tokens, self.heads, head_width).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(-1, -2) / math.sqrt(head_width)
        mixed = torch.softmax(scores, dim=-1) @ split(self.value(x))
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class VisionTransformer(nn.Module):
    """2x2 patches, a class token, three blocks. In opset 14 LayerNorm and Gelu are many nodes each."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.position
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Recurrent(nn.Module):
    """A bidirectional LSTM, then a GRU, over the rows of the image; the last state decides."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(2 * width, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        states, _ = self.gru(states)
        return self.head(states[:, -1])


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model: how it is made, trained and written."""

    make: Callable[[], nn.Module]
    input_name: str
    shape: tuple[int, ...]
    seed: int
    schedule: Schedule
    write: Callable[[nn.Module, Tensor, Path], None]
    augment: Callable[[Tensor], Tensor] = noisy
    loss: Callable[[Schedule], Loss] = smoothed_cross_entropy


def exporter(
    input_name: str, opset: int, *, keep_bn: bool = False
) -> Callable[[nn.Module, Tensor, Path], None]:
    """A `Job.write` that goes through PyTorch's exporter."""

    def write(model: nn.Module, example: Tensor, path: Path) -> None:
        export(model, example, path, input_name, opset, keep_bn=keep_bn)

    return write


def builder(build: Callable[..., onnx.ModelProto]) -> Callable[[nn.Module, Tensor, Path], None]:
    """A `Job.write` that calls one of control_flow's graph builders."""

    def write(model: nn.Module, example: Tensor, path: Path) -> None:
        onnx.save(build(model), path)

    return write


JOBS: dict[str, Job] = {
    "digits_mlp": Job(
        make=make_mlp,
        input_name="features",
        shape=(-1, 64),
        seed=0,
        schedule=Schedule(epochs=60, batch=48, peak_lr=5e-3, weight_decay=0.01),
        write=exporter("features", 17),
    ),
    "digits_cnn": Job(
        make=make_cnn,
        input_name="image",
        shape=(-1, 1, 8, 8),
        seed=0,
        schedule=Schedule(epochs=40, batch=48, peak_lr=5e-3, weight_decay=0.01),
        write=exporter("image", 17, keep_bn=True),
    ),
    "digits_vit": Job(
        make=VisionTransformer,
        input_name="image",
        shape=(-1, 1, 8, 8),
        seed=1,
        schedule=Schedule(epochs=70, batch=48, peak_lr=2e-3, weight_decay=0.03),
        augment=noisy_and_shifted,
        write=exporter("image", 14),
    ),
    "digits_rnn": Job(
        make=Recurrent,
        input_name="rows",
        shape=(-1, 8, 8),
        seed=1,
        schedule=Schedule(epochs=50, batch=48, peak_lr=8e-3, weight_decay=0.03),
        write=exporter("rows", 17),
    ),
    "digits_earlyexit": Job(
        make=control_flow.EarlyExit,
        input_name="features",
        shape=(-1, 64),
        seed=0,
        schedule=Schedule(epochs=60, batch=48, peak_lr=5e-3, weight_decay=0.01, label_smoothing=0.02),
        loss=control_flow.early_exit_loss,
        write=builder(control_flow.build_early_exit),
    ),
    "digits_loop": Job(
        make=control_flow.RowLoop,
        input_name="rows",
        shape=(-1, 8, 8),
        seed=0,
        schedule=Schedule(epochs=60, batch=48, peak_lr=4e-3, weight_decay=0.01, label_smoothing=0.02),
        write=builder(control_flow.build_loop),
    ),
}


def run(name: str, job: Job, digits: Digits, out: Path) -> None:
    """Train one model and write its folder."""
    started = time.perf_counter()
    print(name, flush=True)
    torch.manual_seed(job.seed)
    model = job.make()
    inputs, labels = torch.from_numpy(digits.train.reshape(job.shape)), torch.from_numpy(digits.train_labels)
    fit(model, inputs, labels, job.schedule, job.loss(job.schedule), job.augment)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        job.write(model, inputs[:2], folder / "model.onnx")
    test = digits.test.reshape(job.shape)
    calib = digits.train[:CALIBRATION_SAMPLES].reshape(job.shape)
    save_samples(folder, job.input_name, calib, test, digits.test_labels)
    seconds = time.perf_counter() - started
    accuracy = top1(model, torch.from_numpy(test), torch.from_numpy(digits.test_labels))
    print(f"  top-1 {accuracy:.3f} on {len(test)} held-out images, {seconds:.0f} s", flush=True)


def main() -> None:
    """Train the models named on the command line, or all six."""
    parser = argparse.ArgumentParser(description="Train the digits_* sample models.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="one folder per model is written here"
    )
    parser.add_argument(
        "--only", choices=sorted(JOBS), nargs="+", default=list(JOBS), help="train just these"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # faster at this size, and the sums come in one order
    digits = load()
    for name in args.only:
        run(name, JOBS[name], digits, args.out)


if __name__ == "__main__":
    main()
