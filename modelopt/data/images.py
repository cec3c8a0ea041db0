"""Samples from image files: one image, a folder, or class sub-folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import checked_feeds
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.labels import read_labels_for
from modelopt.data.pixels import PixelPlan, decode, resolve, to_array
from modelopt.data.preprocess import Preprocess

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset(Dataset):
    """Images in sorted order, ``step`` of them per sample; each is decoded when its sample is asked for."""

    plan: PixelPlan
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray | None
    step: int

    def __len__(self) -> int:
        return math.ceil((len(self.paths) - self.dropped) / self.step)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Decode and preprocess the images of these samples."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(index)
            rows = slice(index * self.step, (index + 1) * self.step)
            feed = self._feed(self.paths[rows])
            name = self.names[rows.start]
            feeds = checked_feeds([self.plan.spec], {self.plan.spec.name: feed}, name, allow_nonfinite=True)
            label = None if self.labels is None else np.array(self.labels[rows], order="C")
            yield Sample(feeds, label, name)

    def digest(self) -> str:
        """SHA-256 (hex) over the images, the preprocessing, the batch and the labels."""
        settings = [f"images step={self.step}", repr(self.plan)]
        if self.labels is not None:
            settings.append(user_files.array_digest(self.labels))
        return user_files.digest_of(settings, zip(self.names, self.paths, strict=True))

    def _feed(self, paths: Sequence[Path]) -> np.ndarray:
        arrays = [to_array(decode(path, self.plan.color), self.plan) for path in paths]
        if not self.plan.layout.startswith("n"):
            return arrays[0]
        for path, array in zip(paths, arrays, strict=True):
            if array.shape != arrays[0].shape:
                raise InputError(
                    f"{path} and {paths[0]} differ in size, but are fed in one batch",
                    hint="add resize=HxW to the preprocessing, or use a batch of 1",
                )
        return np.stack(arrays)


def open_images(
    source: str,
    root: Path,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: Preprocess | None,
    labels: Path | None,
    batch: int,
) -> ImageDataset:
    """The images of a file or folder, in sorted order; class sub-folders count from 0 in alphabetical order.

    Raises:
        InputError: The model does not take one image, no image is there, images lie beside class folders, or the
            labels do not match.
    """
    if len(inputs) > 1:
        raise InputError(
            f"images feed one input, the model has {len(inputs)}",
            note=f"the model's inputs are {'; '.join(map(str, inputs))}",
            hint="feed arrays from a .npz, or write a file.py:function",
        )
    plan = resolve(preprocess or Preprocess(), inputs[0])
    names, classes, notes = listing(root, is_image, "images")
    step = plan.batch if plan.batch is not None else batch
    if not 0 < step <= len(names) and plan.batch is not None:
        raise InputError(f"{source} holds {len(names)} images, the model wants {step} at a time")
    dropped = len(names) % step if plan.batch is not None else 0

    rows: np.ndarray | None = None if classes is None else np.array(classes, dtype=np.int64)
    if labels is not None:
        rows, label_notes = read_labels_for(labels, names)
        notes += label_notes
    if plan.guesses:
        notes += (f"preprocessing guessed for {plan.spec}: {','.join(plan.guesses)}: --preprocess says what it is",)
    if dropped:
        notes += (f"{dropped} images at the end of {source} do not fill the model's fixed batch: dropped",)
    folder = root if root.is_dir() else root.parent
    return ImageDataset(
        source=source,
        has_labels=rows is not None,
        dropped=dropped,
        notes=notes,
        guesses=plan.guesses,
        plan=plan,
        names=tuple(names),
        paths=tuple(folder / name for name in names),
        labels=rows,
        step=step,
    )


def is_image(path: Path) -> bool:
    """Whether the file's name is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def class_folders(root: Path, is_kind: Callable[[Path], bool] = is_image) -> list[Path]:
    """The sub-folders of a folder if at least one holds a file of a kind, in alphabetical order."""
    folders = [entry for entry in user_files.visible(root) if entry.is_dir()]
    is_there = any(is_kind(entry) for folder in folders for entry in user_files.visible(folder))
    return folders if is_there else []


def listing(
    root: Path, is_kind: Callable[[Path], bool], what: str
) -> tuple[list[str], list[int] | None, tuple[str, ...]]:
    """The files of a kind: names relative to the folder, the class of each where there are sub-folders, and notes.

    Args:
        root: A file or a folder.
        is_kind: Whether a file is of the kind, by its name.
        what: What errors call the files.

    Raises:
        InputError: Files lie beside class folders.
    """
    if not root.is_dir():
        return [root.name], None, ()
    flat = [entry.name for entry in user_files.visible(root) if is_kind(entry)]
    folders = class_folders(root, is_kind)
    if flat and folders:
        raise InputError(
            f"{root} holds {what} beside class folders",
            note=f"for example {flat[0]} beside {folders[0].name}/",
            hint=f"keep either all {what} in one folder, or one sub-folder per class",
        )
    if not folders:
        return flat, None, ()

    names: list[str] = []
    classes: list[int] = []
    for number, folder in enumerate(folders):
        inside = [f"{folder.name}/{entry.name}" for entry in user_files.visible(folder) if is_kind(entry)]
        names += inside
        classes += [number] * len(inside)
    if len(folders) == 1:
        return names, None, (f"{folders[0].name}/ is the only sub-folder: it is not taken for a class",)
    return names, classes, (f"labels are the {len(folders)} sub-folders in alphabetical order, from 0",)
