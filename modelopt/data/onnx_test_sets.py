"""Samples in the layout of ONNX's backend tests: ``test_data_set_3/input_0.pb``, one folder per sample."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import checked_feeds
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.labels import read_labels_for

_INPUT = re.compile(r"input_(\d+)\.pb")
_FOLDER = re.compile(r"test_data_set_(\d+)")


@dataclass(frozen=True, kw_only=True, eq=False)
class PbDataset(Dataset):
    """One sample per folder; ``input_0.pb`` feeds the model's first input. Expected outputs are not read."""

    inputs: tuple[TensorSpec, ...]
    folders: tuple[Path, ...]
    labels: np.ndarray | None
    allow_nonfinite: bool

    def __len__(self) -> int:
        return len(self.folders)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Parse the tensors of these folders."""
        from modelopt.data.tensor_proto import read_tensor  # it imports onnx: slow

        for index in indices:
            folder = self.folders[index]
            arrays = {
                spec.name: read_tensor(path) for spec, path in zip(self.inputs, _input_files(folder), strict=True)
            }
            feeds = checked_feeds(self.inputs, arrays, folder.name, allow_nonfinite=self.allow_nonfinite)
            label = None if self.labels is None else np.array(self.labels[index], order="C")
            yield Sample(feeds, label, folder.name)

    def digest(self) -> str:
        """SHA-256 (hex) over the input tensors, the model's inputs and the labels."""
        settings = ["testsets", *map(str, self.inputs)]
        if self.labels is not None:
            settings.append(user_files.array_digest(self.labels))
        pairs = [(folder.name, path) for folder in self.folders for path in _input_files(folder)]
        return user_files.digest_of(settings, ((f"{name}/{path.name}", path) for name, path in pairs))


def pb_folders(root: Path) -> list[Path]:
    """The folders of test sets: ``root`` itself if it holds ``input_*.pb``, else its ``test_data_set_*``, by number."""
    entries = user_files.visible(root)
    if any(_INPUT.fullmatch(entry.name) for entry in entries):
        return [root]
    numbered = [(match, entry) for entry in entries if (match := _FOLDER.fullmatch(entry.name))]
    return [entry for _, entry in sorted(numbered, key=lambda pair: int(pair[0].group(1)))]


def open_pb(
    source: str,
    folders: Sequence[Path],
    inputs: Sequence[TensorSpec],
    *,
    labels: Path | None,
    allow_nonfinite: bool,
) -> PbDataset:
    """The samples in these folders; the tensors are read later, one sample at a time.

    Raises:
        InputError: A folder does not hold one ``input_*.pb`` per input, or the labels do not match.
    """
    for folder in folders:
        found = _input_files(folder)
        if len(found) != len(inputs):
            raise InputError(
                f"{folder} holds {len(found)} inputs, the model has {len(inputs)}",
                note=f"the model's inputs are {'; '.join(map(str, inputs))}",
                hint=f"it should hold input_0.pb to input_{len(inputs) - 1}.pb",
            )
    rows: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    if labels is not None:
        rows, notes = read_labels_for(labels, [folder.name for folder in folders])
    return PbDataset(
        source=source,
        has_labels=rows is not None,
        notes=notes,
        inputs=tuple(inputs),
        folders=tuple(folders),
        labels=rows,
        allow_nonfinite=allow_nonfinite,
    )


def _input_files(folder: Path) -> list[Path]:
    """``input_0.pb``, ``input_1.pb``, …: by number, without holes."""
    numbered = {
        int(match.group(1)): entry for entry in user_files.visible(folder) if (match := _INPUT.fullmatch(entry.name))
    }
    for number in range(len(numbered)):
        if number not in numbered:
            raise InputError(f"{folder}: input_{number}.pb is missing")
    return [numbered[number] for number in range(len(numbered))]
