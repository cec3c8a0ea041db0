"""From what the user writes after ``--calib`` or ``--eval`` to a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.arrays import ARRAY_SUFFIXES, open_arrays
from modelopt.data.audio import open_audio
from modelopt.data.batch_axis import BatchAxes
from modelopt.data.check import check_inputs
from modelopt.data.columns import Columns
from modelopt.data.csv_tables import TABLE_SUFFIXES, open_table
from modelopt.data.dataset import Dataset
from modelopt.data.images import class_folders, is_image, open_images
from modelopt.data.onnx_test_sets import open_pb, pb_folders
from modelopt.data.preprocess import Preprocess
from modelopt.data.script import open_script
from modelopt.data.sound_file import is_audio
from modelopt.data.splits import draw
from modelopt.data.synthetic import random_data
from modelopt.data.text_rows import JSON_SUFFIXES, LINE_SUFFIXES
from modelopt.data.texts import open_texts

DEFAULT_RANDOM_SAMPLES = 16
"""How many samples ``random`` gives when the user sets no limit."""

MAX_RANDOM_SAMPLES = 100_000
"""The most samples of ``random``: it would make any number of them."""

_KINDS = (
    "data is a .npz or .npy file, an image, a .wav or .flac, a folder of these, a .csv, .jsonl or .txt file, a folder "
    "of test_data_set_*/input_*.pb, file.py:function, or the word random"
)


def open_data(
    spec: str,
    inputs: Sequence[TensorSpec],
    *,
    preprocess: Preprocess | None = None,
    labels: Path | None = None,
    limit: int | None = None,
    batch: int = 1,
    seed: int = 0,
    allow_nonfinite: bool = False,
    free_dims: Mapping[str, int] | None = None,
    batch_axes: BatchAxes | None = None,
    columns: Columns | None = None,
) -> Dataset:
    """Open the user's data for a model with these inputs; arrays and images are read later, sample by sample.

    Args:
        spec: ``random``, ``file.py:function``, or a path: a ``.npz``, a ``.npy``, an image, a sound file, a folder of
            arrays, images or sound (class sub-folders give labels), a table, a file of texts, or a folder in the
            layout of ONNX's backend tests.
        inputs: The model's inputs, in its order.
        preprocess: How images become feeds; what it leaves open is derived from the input.
        labels: A file of labels; it outranks labels that the data itself holds.
        limit: At most so many samples, drawn with ``seed``; of a function, the first ones.
        batch: Rows per sample where the model leaves the batch free.
        seed: Seeds the draw and ``random``.
        allow_nonfinite: Accept NaN and Inf.
        free_dims: Sizes of symbolic dimensions, for ``random``.
        batch_axes: What the user says of the batch axes of arrays.
        columns: What the user says of the columns of a table.

    Raises:
        InputError: Nothing is there, it is of no known kind, it holds no sample, or it does not fit the model.
        Refused: An input that is not a tensor, or strings that are not numpy unicode arrays.
    """
    inputs = tuple(inputs)
    check_inputs(inputs)
    if batch < 1 or seed < 0 or (limit is not None and limit < 1):
        raise InputError("batch and limit are at least 1, the seed at least 0", note=f"{batch=}, {limit=}, {seed=}")
    if spec == "random":
        _refuse_unused("random data", preprocess, labels, batch_axes, columns)
        n = limit or DEFAULT_RANDOM_SAMPLES
        if n > MAX_RANDOM_SAMPLES:
            raise InputError(f"{n} random samples are too many", note=f"the limit is {MAX_RANDOM_SAMPLES}")
        return random_data(inputs, n=n, seed=seed, free_dims=free_dims, batch=batch)
    script = script_of(spec)
    if script is not None:
        _refuse_unused("a Python function", preprocess, labels, batch_axes, columns)
        return open_script(spec, *script, inputs, limit=limit, allow_nonfinite=allow_nonfinite)

    path = user_files.existing(Path(spec))
    if labels is not None:
        user_files.existing(labels)
    dataset = _opened(
        spec,
        path,
        inputs,
        preprocess=preprocess,
        labels=labels,
        batch=batch,
        allow_nonfinite=allow_nonfinite,
        batch_axes=batch_axes,
        columns=columns,
    )
    return dataset if limit is None else draw(dataset, limit, seed)


def _opened(
    spec: str,
    path: Path,
    inputs: tuple[TensorSpec, ...],
    *,
    preprocess: Preprocess | None,
    labels: Path | None,
    batch: int,
    allow_nonfinite: bool,
    batch_axes: BatchAxes | None,
    columns: Columns | None,
) -> Dataset:
    """The samples of a file or folder: see `open_data`."""
    kind, paths = _kind(path)
    if kind not in ("images", "audio"):
        _refuse_unused("data that is no image and no sound", preprocess=preprocess)
    if kind not in ("arrays", "table"):
        _refuse_unused("data that is not .npz or .npy", batch_axes=batch_axes)
    if kind not in ("table", "text"):
        _refuse_unused("data that is no table and no text", columns=columns)
    said = columns or Columns()
    if kind == "images":
        return open_images(spec, path, inputs, preprocess=preprocess, labels=labels, batch=batch)
    if kind == "audio":
        return open_audio(spec, path, inputs, preprocess=preprocess, labels=labels, batch=batch)
    if kind == "arrays":
        return open_arrays(
            spec, paths, inputs, labels=labels, batch=batch, allow_nonfinite=allow_nonfinite, batch_axes=batch_axes
        )
    if said.tokenizer is not None:
        _refuse_unused("text", batch_axes=batch_axes)
        return open_texts(spec, path, inputs, tokenizer=said.tokenizer, columns=said, labels=labels, batch=batch)
    if kind == "text":
        raise InputError(f"{path} is text, and not data without a tokenizer", hint="--tokenizer tokenizer.json")
    if kind == "table":
        return open_table(spec, path, inputs, columns=said, labels=labels, batch=batch, batch_axes=batch_axes)
    return open_pb(spec, paths, inputs, labels=labels, allow_nonfinite=allow_nonfinite)


def script_of(spec: str) -> tuple[Path, str] | None:
    """The file and the function of ``file.py:function``; None for data of another kind."""
    file, _, function = spec.rpartition(":")
    return (Path(file), function) if file.endswith(".py") else None


def _refuse_unused(
    what: str,
    preprocess: Preprocess | None = None,
    labels: Path | None = None,
    batch_axes: BatchAxes | None = None,
    columns: Columns | None = None,
) -> None:
    """An option that would do nothing is a mistake."""
    if preprocess is not None:
        raise InputError(f"{what} is not preprocessed", hint="leave out the preprocessing")
    if labels is not None:
        raise InputError(f"{what} takes no file of labels", hint="a function can yield (feeds, label)")
    if batch_axes is not None and batch_axes != BatchAxes({}):
        raise InputError(f"{what} has no batch axis to name", hint="leave out --batch-axis and --whole-files")
    if columns is not None and columns.tokenizer is not None:
        raise InputError(f"{what} has no text", hint="leave out --tokenizer")
    if columns is not None and columns.label is not None and columns.require_label:
        raise InputError(f"{what} has no columns", hint="leave out --label-column")


def _kind(path: Path) -> tuple[str, list[Path]]:
    """``images``, ``arrays`` or ``pb``, with the files or folders for the last two."""
    if path.is_dir():
        return _folder_kind(path)
    user_files.regular_size(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return "arrays", [path]
    if is_image(path):
        return "images", []
    if is_audio(path):
        return "audio", []
    if path.suffix.lower() in TABLE_SUFFIXES:
        return "table", [path]
    if path.suffix.lower() in (*JSON_SUFFIXES, *LINE_SUFFIXES):
        return "text", [path]
    if path.suffix == ".py":
        raise InputError(f"{path} is a Python file: which function yields the samples?", hint=f"write {path}:function")
    raise InputError(f"{path} is not data that modelopt reads", note=_KINDS)


def _folder_kind(path: Path) -> tuple[str, list[Path]]:
    entries = user_files.visible(path)
    if not entries:
        raise InputError(f"the folder {path} is empty", note=_KINDS)
    folders = pb_folders(path)
    arrays = [entry for entry in entries if entry.suffix.lower() in ARRAY_SUFFIXES]
    has_images = any(is_image(entry) for entry in entries) or bool(class_folders(path))
    has_audio = any(is_audio(entry) for entry in entries) or bool(class_folders(path, is_audio))
    found_kinds = (("pb", folders), ("arrays", arrays), ("images", has_images), ("audio", has_audio))
    kinds = [kind for kind, found in found_kinds if found]
    if len(kinds) > 1:
        raise InputError(
            f"the folder {path} mixes kinds of data", note=f"it holds {' and '.join(kinds)}", hint="keep one"
        )
    if not kinds:
        raise InputError(
            f"the folder {path} holds no data that modelopt reads",
            note=f"found {', '.join(entry.name for entry in entries[:5])}; {_KINDS}",
        )
    return kinds[0], folders or arrays
