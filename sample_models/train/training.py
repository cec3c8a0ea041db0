"""What the training scripts share: one seeded training loop, the ONNX export, and the sample files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Augment = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The hyper-parameters of one training run: AdamW under a one-cycle learning rate."""

    epochs: int
    batch: int
    peak_lr: float
    weight_decay: float
    label_smoothing: float = 0.05
    warmup_share: float = 0.3


def smoothed_cross_entropy(schedule: Schedule) -> Loss:
    """Cross entropy on the only output of the model, with the schedule's label smoothing."""

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs), labels, label_smoothing=schedule.label_smoothing)

    return loss


def fit(
    model: nn.Module, inputs: Tensor, labels: Tensor, schedule: Schedule, loss: Loss, augment: Augment
) -> None:
    """Train `model` in place and leave it in evaluation mode. The caller seeds torch."""
    steps = schedule.epochs * -(-len(inputs) // schedule.batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.peak_lr, total_steps=steps, pct_start=schedule.warmup_share
    )
    started = time.perf_counter()
    model.train()
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(inputs))
        total = 0.0
        for rows in order.split(schedule.batch):
            value = loss(model, augment(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            total += value.item() * len(rows)
        if epoch == schedule.epochs - 1 or epoch % max(1, schedule.epochs // 5) == 0:
            seconds = time.perf_counter() - started
            print(
                f"  epoch {epoch + 1}/{schedule.epochs}  loss {total / len(inputs):.3f}  {seconds:.0f} s",
                flush=True,
            )
    model.eval()


def export(
    model: nn.Module, example: Tensor, path: Path, input_name: str, opset: int, *, keep_bn: bool
) -> None:
    """Write `model` to `path` with a dynamic batch axis.

    `keep_bn` keeps every BatchNormalization as a node of its own. The exporter would otherwise fold it into
    the convolution before it, and a sample for an optimizer should leave that work to do.
    """
    mode = torch.onnx.TrainingMode.PRESERVE if keep_bn else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=[input_name],
        output_names=["logits"],
        dynamic_axes={input_name: {0: "batch"}, "logits": {0: "batch"}},
        opset_version=opset,
        training=mode,
        dynamo=False,  # the TorchScript exporter: decomposed patterns, as most models in the wild have them
    )


def save_samples(
    folder: Path, name: str, calib: np.ndarray, evaluation: np.ndarray, labels: np.ndarray
) -> None:
    """Write `calib.npz` and `eval.npz`: samples under the input's `name`, class indices under `label`."""
    inputs = {name: evaluation.astype(np.float32)}
    np.savez_compressed(folder / "calib.npz", **{name: calib.astype(np.float32)})
    np.savez_compressed(folder / "eval.npz", **inputs, label=labels.astype(np.int64))


def top1(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The share of samples whose largest logit is the label."""
    with torch.no_grad():
        hits = [
            (model(x).argmax(1) == y).sum() for x, y in zip(inputs.split(250), labels.split(250), strict=True)
        ]
    return float(sum(hits)) / len(inputs)
