"""Samples from sound files: one file, a folder, or class sub-folders; mono, resampled, cut into frames."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import checked_feeds, fixed_size
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.dtypes import numpy_dtype
from modelopt.data.images import listing
from modelopt.data.labels import read_labels_for
from modelopt.data.preprocess import Preprocess
from modelopt.data.sound_file import Sound, is_audio, read_mono, sound_of


@dataclass(frozen=True)
class _AudioPlan:
    """How sound feeds an input.

    Attributes:
        spec: The input.
        shape: The shape of one frame within a batch, with -1 for its length.
        has_batch: Whether the input has a batch axis.
        length: Values of a frame; None where a whole file is one.
        batch: The frames that the model takes at once; None where that is free.
        rate: Values per second.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    has_batch: bool
    length: int | None
    batch: int | None
    rate: int


@dataclass(frozen=True, kw_only=True, eq=False)
class AudioDataset(Dataset):
    """Frames of sound files in sorted order, `step` of them per sample; one file is in memory at a time."""

    plan: _AudioPlan
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    ends: tuple[int, ...]
    labels: np.ndarray | None
    step: int

    def __len__(self) -> int:
        return math.ceil((self.ends[-1] - self.dropped) / self.step)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Read, mix, resample and cut the files of these samples."""
        held: tuple[int, np.ndarray] | None = None
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(index)
            frames, files = [], []
            for number in range(index * self.step, min((index + 1) * self.step, self.ends[-1] - self.dropped)):
                file = bisect.bisect_right(self.ends, number)
                if held is None or held[0] != file:
                    held = None  # let go of one file before the next is read
                    held = file, read_mono(self.paths[file], self.plan.rate)
                frames.append(self._frame(held[1], number - (self.ends[file - 1] if file else 0)))
                files.append(file)
            first = index * self.step - (self.ends[files[0] - 1] if files[0] else 0)
            name = f"{self.names[files[0]]}[{first}]"
            feed = np.stack(frames) if self.plan.has_batch else frames[0]
            feeds = checked_feeds([self.plan.spec], {self.plan.spec.name: feed}, name, allow_nonfinite=False)
            label = None if self.labels is None else np.array(self.labels[files], order="C")
            yield Sample(feeds, label, name, rows=len(files))

    def digest(self) -> str:
        """SHA-256 (hex) over the files, the frames, the batch and the labels."""
        settings = [f"audio step={self.step}", repr(self.plan)]
        if self.labels is not None:
            settings.append(user_files.array_digest(self.labels))
        return user_files.digest_of(settings, zip(self.names, self.paths, strict=True))

    def _frame(self, values: np.ndarray, number: int) -> np.ndarray:
        if self.plan.length is not None:
            start = number * self.plan.length
            values = values[start : start + self.plan.length]
            values = np.pad(values, (0, self.plan.length - len(values)))
        dtype = numpy_dtype(self.plan.spec)
        if dtype.kind == "i":
            values = np.clip(np.rint(values * 32768), -32768, 32767)
        return values.astype(dtype).reshape(self.plan.shape)


def open_audio(
    source: str,
    root: Path,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: Preprocess | None,
    labels: Path | None,
    batch: int,
) -> AudioDataset:
    """The frames of sound files, in the sorted order of the files; class sub-folders count from 0.

    A file is cut into frames of the length that the model's input fixes. What remains at its end is left out, and a
    file that is shorter than a frame is filled up with silence. Where the input's length is free, a file is one frame.

    Args:
        source: What the user wrote.
        root: The file or folder.
        inputs: The model's inputs: one of floats or int16, [length], [n, length], [n, 1, length] or [n, length, 1].
        preprocess: ``rate=N``, the values per second that the model wants; None keeps the rate of the files.
        labels: A file of labels, one for each file.
        batch: Frames per sample where the model leaves the batch free.

    Raises:
        EnvironmentLacks: The package that reads sound is not installed.
        InputError: A file is damaged or too long, the rates differ, or sound does not feed the model.
    """
    if preprocess is not None and replace(preprocess, rate=None) != Preprocess():
        raise InputError("sound is not preprocessed as images are", hint="--preprocess rate=16000 is all it takes")
    names, classes, notes = listing(root, is_audio, "sound files")
    folder = root if root.is_dir() else root.parent
    paths = tuple(folder / name for name in names)
    sounds = [sound_of(path) for path in paths]
    rate, guesses = _rate(preprocess, sounds, paths)
    plan = _plan(inputs, rate)
    counts = [max(1, sound.length_at(rate) // plan.length) if plan.length else 1 for sound in sounds]
    ends = tuple(itertools.accumulate(counts))
    step = plan.batch or (batch if plan.length and plan.has_batch else 1)
    if plan.batch is not None and step > ends[-1]:
        raise InputError(f"{source} holds {ends[-1]} frames, the model wants {step} at a time")
    rows: np.ndarray | None = None if classes is None else np.array(classes, dtype=np.int64)
    if labels is not None:
        rows, label_notes = read_labels_for(labels, names)
        notes += label_notes
    dropped = ends[-1] % step if plan.batch is not None else 0
    if dropped:
        notes += (f"{dropped} frames at the end of {source} do not fill the model's fixed batch: dropped",)
    if guesses:
        notes += (f"the rate of the files, {rate} per second, is taken for the model's: --preprocess says what it is",)
    return AudioDataset(
        source=source,
        has_labels=rows is not None,
        dropped=dropped,
        notes=notes,
        guesses=guesses,
        plan=plan,
        names=tuple(names),
        paths=paths,
        ends=ends,
        labels=rows,
        step=step,
    )


def _rate(preprocess: Preprocess | None, sounds: Sequence[Sound], paths: Sequence[Path]) -> tuple[int, tuple[str, ...]]:
    """The rate to feed, and what of it was guessed."""
    if preprocess is not None and preprocess.rate is not None:
        return preprocess.rate, ()
    for sound, path in zip(sounds, paths, strict=True):
        if sound.rate != sounds[0].rate:
            raise InputError(
                f"{path} has {sound.rate} values per second, {paths[0]} has {sounds[0].rate}",
                hint=f"say what the model wants: --preprocess rate={min(sound.rate, sounds[0].rate)}",
            )
    return sounds[0].rate, (f"rate={sounds[0].rate}",)


def _plan(inputs: Sequence[TensorSpec], rate: int) -> _AudioPlan:
    spec = inputs[0]
    sizes = [fixed_size(size) for size in spec.shape or ()]
    channel = next((axis for axis in (1, 2) if len(sizes) == 3 and sizes[axis] == 1), None)
    is_known = len(sizes) in (1, 2) or channel is not None
    if len(inputs) > 1 or not is_known or spec.dtype not in ("float16", "float32", "float64", "int16"):
        raise InputError(
            f"sound does not feed the model's inputs {'; '.join(map(str, inputs))}",
            note="it feeds one input of floats or int16: [length], [n,length], [n,1,length] or [n,length,1]",
            hint="feed arrays from a .npz, or write a file.py:function",
        )
    place = len(sizes) - 1 if channel is None else 3 - channel
    length, batch = sizes[place], sizes[0] if len(sizes) > 1 else 1
    if length is None and (batch or 1) > 1:
        raise InputError(f"files of different lengths do not make a batch of {batch}: {spec}")
    if length == 0 or batch == 0:
        raise InputError(f"no sound fits the model's input {spec}")
    shape = (-1,) if channel is None else (1, -1) if channel == 1 else (-1, 1)
    return _AudioPlan(spec, shape, len(sizes) > 1, length, batch, rate)
