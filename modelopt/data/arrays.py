"""Samples from ``.npz`` and ``.npy`` files: one file, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.array_part import ArrayPart
from modelopt.data.arrayfile import Header, NpyFile, NpzFile
from modelopt.data.batch_axis import BatchAxes, layout_of
from modelopt.data.batches import Cut, CutPlan, plan
from modelopt.data.check import check_names, checked_feeds
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.labels import read_label_rows

ARRAY_SUFFIXES = (".npz", ".npy")

_LISTED = 5
"""How many arrays that are not used are named."""

LABEL_KEYS = ("label", "labels")
"""The names of an array or a column that holds labels, where no input of the model has that name."""

KEPT_BYTES = 32 << 20
"""Stored arrays of no more than so many bytes in all stay in memory once they were read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayDataset(Dataset):
    """Samples cut from stored arrays as `modelopt.data.batches` says.

    One file is in memory at a time, or all of them where that takes no more than `KEPT_BYTES`: a search reads them
    hundreds of times.
    """

    inputs: tuple[TensorSpec, ...]
    parts: tuple[ArrayPart, ...]
    labels: np.ndarray | None
    batch: int
    allow_nonfinite: bool
    batch_axes: BatchAxes
    _kept: dict[Path, Mapping[str, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return self.parts[-1].first + self.parts[-1].plan.count

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Cut these samples from their files, reading a file anew whenever the positions leave it."""
        part: ArrayPart | None = None
        arrays: Mapping[str, np.ndarray] = {}
        for index in indices:
            if part is None or not part.first <= index < part.first + part.plan.count:
                arrays = {}  # let go of one file before the next is read
                part = self._part_of(index)
                arrays = self._arrays_of(part)
            yield self._sample(part, arrays, index - part.first)

    def digest(self) -> str:
        """SHA-256 (hex) over the files, the model's inputs, the batch and the labels file."""
        settings = [f"arrays batch={self.batch}", *map(str, self.inputs)]
        if self.batch_axes != BatchAxes({}):
            settings.append(f"batch axes {sorted(self.batch_axes.axes.items())} whole={self.batch_axes.whole_files}")
        if self.labels is not None:
            settings.append(user_files.array_digest(self.labels))
        for part in self.parts:
            for key, array in sorted((part.arrays or {}).items()):
                settings += [key, user_files.array_digest(array)]
        files = ((part.name, part.path) for part in self.parts if part.arrays is None)
        return user_files.digest_of(settings, files)

    def _arrays_of(self, part: ArrayPart) -> Mapping[str, np.ndarray]:
        if part.arrays is not None:
            return part.arrays
        if part.path in self._kept:
            return self._kept[part.path]
        arrays = part.load()
        if sum(each.n_bytes for each in self.parts) <= KEPT_BYTES:
            self._kept[part.path] = arrays
        return arrays

    def _part_of(self, index: int) -> ArrayPart:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return next(part for part in reversed(self.parts) if part.first <= index)

    def _sample(self, part: ArrayPart, arrays: Mapping[str, np.ndarray], index: int) -> Sample:
        name = part.sample_name(index)
        views = {key: cut.at(arrays[key], index) for key, cut in part.plan.cuts.items()}
        feeds = checked_feeds(self.inputs, views, name, allow_nonfinite=self.allow_nonfinite)
        return Sample(feeds, self._label(part, arrays, index), name, part.plan.lead.size(index))

    def _label(self, part: ArrayPart, arrays: Mapping[str, np.ndarray], index: int) -> np.ndarray | None:
        if not self.has_labels:
            return None
        if self.labels is not None:
            rows = self.labels[part.first_row : part.first_row + part.plan.lead.rows]
        elif part.label_key is not None:
            rows = arrays[part.label_key]
        else:
            return None
        return np.array(part.label_cut.at(rows, index), order="C")


def open_arrays(
    source: str,
    paths: Sequence[Path],
    inputs: Sequence[TensorSpec],
    *,
    labels: Path | None,
    batch: int,
    allow_nonfinite: bool,
    batch_axes: BatchAxes | None = None,
) -> ArrayDataset:
    """The samples of these files, in this order; only headers are read here.

    Raises:
        InputError: A file is malformed, lacks an input, disagrees with the model or with its labels.
        Refused: Strings that are not numpy unicode arrays.
    """
    batch_axes = batch_axes or BatchAxes({})
    batch_axes.check(inputs)
    named = labels is None
    parts = [
        _part(path, _headers(path, tuple(inputs)), tuple(inputs), batch, batch_axes, named=named) for path in paths
    ]
    return _dataset(
        source, parts, inputs, labels=labels, batch=batch, allow_nonfinite=allow_nonfinite, batch_axes=batch_axes
    )


def from_memory(
    source: str,
    arrays: Mapping[str, np.ndarray],
    inputs: Sequence[TensorSpec],
    *,
    labels: Path | None,
    batch: int,
    batch_axes: BatchAxes | None = None,
) -> ArrayDataset:
    """The samples of arrays in memory, cut as those of one file are.

    Raises:
        InputError: An input is missing, or something is no array or does not fit the model or its labels.
        Refused: Strings that are not numpy unicode arrays.
    """
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise InputError(f"{source}: {key!r} is not an array of numbers or strings", hint="np.array(…, dtype=…)")
    batch_axes = batch_axes or BatchAxes({})
    batch_axes.check(inputs)
    headers = {key: Header(array.shape, array.dtype) for key, array in arrays.items()}
    part = _part(Path(source), headers, tuple(inputs), batch, batch_axes, named=labels is None, arrays=arrays)
    return _dataset(source, [part], inputs, labels=labels, batch=batch, allow_nonfinite=False, batch_axes=batch_axes)


def _dataset(
    source: str,
    unnumbered: Sequence[ArrayPart],
    inputs: Sequence[TensorSpec],
    *,
    labels: Path | None,
    batch: int,
    allow_nonfinite: bool,
    batch_axes: BatchAxes,
) -> ArrayDataset:
    parts = _numbered(unnumbered)
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    dropped = sum(part.plan.lead.dropped for part in parts)
    if dropped:
        notes += (f"{dropped} rows at the end of {source} do not fill the model's fixed batch: dropped",)

    label_rows = None if labels is None else read_label_rows(labels)
    if label_rows is not None:
        _check_count(label_rows.shape, sum(part.plan.lead.rows for part in parts), str(labels))
    labelled = [part for part in parts if part.label_key is not None]
    if labelled and len(labelled) < len(parts):
        notes += (f"only {len(labelled)} of {len(parts)} files hold labels: all are ignored",)
    return ArrayDataset(
        source=source,
        has_labels=label_rows is not None or len(labelled) == len(parts),
        dropped=dropped,
        notes=notes,
        inputs=tuple(inputs),
        parts=parts,
        labels=label_rows,
        batch=batch,
        allow_nonfinite=allow_nonfinite,
        batch_axes=batch_axes,
    )


def _numbered(parts: Sequence[ArrayPart]) -> tuple[ArrayPart, ...]:
    numbered: list[ArrayPart] = []
    first = first_row = 0
    for part in parts:
        numbered.append(replace(part, first=first, first_row=first_row))
        first += part.plan.count
        first_row += part.plan.lead.rows
    return tuple(numbered)


def _part(
    path: Path,
    headers: Mapping[str, Header],
    inputs: tuple[TensorSpec, ...],
    batch: int,
    batch_axes: BatchAxes,
    *,
    named: bool,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> ArrayPart:
    """Cut the arrays of one file, by their headers; ``named`` says whether labels inside it count."""
    check_names(inputs, headers, path.name)
    layout = layout_of(inputs, {spec.name: headers[spec.name].shape for spec in inputs}, batch_axes)
    cut = plan(inputs, headers, batch, path.name, layout)
    spare = [key for key in headers if key not in cut.cuts]
    label_key = next((key for key in LABEL_KEYS if key in spare), None) if named else None
    label_cut = replace(cut.lead, axis=0)
    if label_key is not None:
        label_cut = _label_cut(headers[label_key].shape, cut, path.name)
    ignored = [key for key in spare if key != label_key]
    notes = [f"'{key}' is not an input of the model: ignored" for key in ignored[:_LISTED]]
    notes += [f"{len(ignored) - _LISTED} more arrays are no input of the model: ignored"] if ignored[_LISTED:] else []
    notes += [
        f"each value of '{spec.name}' is taken for one sample; if a whole array is one sample, save array[None]"
        for spec in inputs
        if spec.rank == 1 and cut.cuts[spec.name].step == 1 and cut.count > 1
    ]
    notes += [layout.note] if layout.note is not None else []
    return ArrayPart(path, arrays, headers, cut, label_key, label_cut, tuple(notes))


def _headers(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, Header]:
    if path.suffix.lower() == ".npz":
        return NpzFile(path).headers()
    if len(inputs) > 1:
        raise InputError(
            f"{path} holds one array, the model has {len(inputs)} inputs",
            note=f"the model's inputs are {'; '.join(map(str, inputs))}",
            hint="save all of them by name in a .npz: np.savez(path, **feeds)",
        )
    return {inputs[0].name: NpyFile(path).header()}


def _label_cut(shape: tuple[int, ...], cut: CutPlan, where: str) -> Cut:
    """Labels follow the rows of the samples, or are one per sample."""
    if cut.lead.step is None:
        return cut.lead
    along = replace(cut.lead, axis=0)  # labels have their samples on their first axis
    if shape and shape[0] == cut.count:
        return along if cut.lead.rows == cut.count else Cut(count=cut.count, step=0, rows=cut.count)
    _check_count(shape, cut.lead.rows, where)
    return along


def _check_count(shape: tuple[int, ...], expected: int, where: str) -> None:
    found = shape[0] if shape else 1
    if found != expected or not shape:
        raise InputError(
            f"{where}: labels do not match: {found} labels for {expected} samples",
            hint="give one label for each row of the data, in the same order",
        )
