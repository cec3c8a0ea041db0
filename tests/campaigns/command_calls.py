"""What the campaign of commands runs: the models below folders, the data beside them, and the calls for each model."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from modelopt.recipe import shipped_recipes

_LABELS = {"label", "labels"}
_CALIB_SAMPLES, _EVAL_SAMPLES = "32", "48"
_JSON_EVERY = 4
_WITH_CALIBRATION = {"int8-static", "tensorrt-int8"}
_LIMITS = ("--timeout", "30", "--memory-limit", "6GB")
"""A hostile model may take so much; by default it may take most of the machine."""


@dataclass(frozen=True)
class Subject:
    """A model file and the data that lie beside it.

    Attributes:
        model: The file.
        shown: Its path below the folder that was named, with that folder's name.
        calib: What ``--calib`` gets; None where there are no data.
        evaluation: What ``--eval`` gets; None where there is none, or where its arrays are not the model's inputs.
        preprocess: What ``--preprocess`` gets, for images.
    """

    model: Path
    shown: str
    calib: Path | None = None
    evaluation: Path | None = None
    preprocess: str | None = None


@dataclass(frozen=True)
class Call:
    """One run of the command on one model.

    Attributes:
        column: The name of the call in the table.
        arguments: Of the command, without the output and the report.
        makes_model: Whether it writes a model.
        exact: Whether that model must compute what the original computes.
        has_data: Whether the outputs are compared on data from a file.
        as_json: Whether it prints one JSON document.
        needs: The column whose result is an argument, written ``{result}`` there.
    """

    column: str
    arguments: tuple[str, ...]
    makes_model: bool = False
    exact: bool = False
    has_data: bool = False
    as_json: bool = False
    needs: str | None = None


# Models and their data


def subjects(folders: Sequence[Path], max_bytes: float) -> tuple[list[Subject], list[str]]:
    """The models to run, and a line for each that is left out because it is large."""
    found, left_out = [], []
    for folder in map(Path.resolve, folders):
        for path in sorted(folder.rglob("*.onnx")):
            shown = str(Path(folder.name) / path.relative_to(folder))
            size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*") if each.is_file())
            if size > max_bytes:
                left_out.append(f"{shown} is left out: {size / 1e6:.0f} MB with its data")
            else:
                found.append(_with_data(path, shown))
    return found, left_out


def _with_data(model: Path, shown: str) -> Subject:
    own = model.with_suffix(".npz")
    if own.is_file():
        fits = _fits(own, model)
        return Subject(model, shown, own if fits else None, own if fits else None)
    calib = _first(model.parent, "calib")
    evaluation = _first(model.parent, "eval")
    preprocess = model.parent / "preprocess.txt"
    return Subject(
        model,
        shown,
        calib if calib and _fits(calib, model) else None,
        evaluation if evaluation and _fits(evaluation, model) else None,
        preprocess.read_text().strip() if preprocess.is_file() else None,
    )


def _first(folder: Path, name: str) -> Path | None:
    places = (folder / f"{name}.npz", folder / name)
    return next((place for place in places if place.exists()), None)


def _fits(data: Path, model: Path) -> bool:
    """Whether the arrays of a file are the model's inputs; a folder is believed to fit."""
    if data.is_dir():
        return True
    with zipfile.ZipFile(data) as archive:
        arrays = {name.removesuffix(".npy") for name in archive.namelist()}
    return arrays - _LABELS == input_names(model)


def input_names(model: Path) -> set[str]:
    """What the model must be fed; nothing where the file cannot be read."""
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except DecodeError:
        return set()
    stored = {tensor.name for tensor in graph.initializer}
    return {value.name for value in graph.input} - stored


# Calls


def calls(subject: Subject, number: int, seconds: float) -> Iterator[Call]:
    """All calls for a model; each fourth is made once more with ``--json``, other ones for the next model.

    Args:
        subject: The model.
        number: Of the model: it chooses the recipe and the calls with ``--json``.
        seconds: Time for timing in each call.
    """
    for position, call in enumerate(_plain(subject, number, seconds)):
        yield call
        if (position + number) % _JSON_EVERY == 0:
            yield replace(call, column=f"{call.column} --json", arguments=(*call.arguments, "--json"), as_json=True)


def _plain(subject: Subject, number: int, seconds: float) -> Iterator[Call]:
    model = str(subject.model)
    timing = ("--budget", f"{seconds:g}", "--warmup", "0.1", *_LIMITS)
    preprocess = () if subject.preprocess is None else ("--preprocess", subject.preprocess)
    evaluation = (
        () if subject.evaluation is None else ("--eval", str(subject.evaluation), "--eval-limit", _EVAL_SAMPLES)
    )
    data = (*evaluation, *(preprocess if evaluation else ()))
    yield Call("inspect", ("inspect", model))
    for column, arguments, exact in (
        ("fold", ("fold", "--no-bench", *_LIMITS), True),
        ("fuse", ("fuse", *timing), True),
        ("fuse --contrib", ("fuse", "--contrib", "--no-bench", *_LIMITS), True),
        ("prune", ("prune", "--sparsity", "0.5", *timing), False),
    ):
        yield Call(column, (*arguments, model, *data), makes_model=True, exact=exact, has_data=bool(data))
    yield from _quantizing(subject, (*timing, model), data, preprocess)
    yield Call("bench", ("bench", *timing, model))
    yield Call("compare self", ("compare", *timing, model, model, *data), has_data=bool(data))
    yield Call(
        "compare fold", ("compare", "--no-bench", *_LIMITS, model, "{result}", *data), has_data=bool(data), needs="fold"
    )
    recipes = shipped_recipes.names()
    recipe = recipes[number % len(recipes)]
    calib = () if subject.calib is None else ("--calib", str(subject.calib), *preprocess)
    if not calib and recipe in _WITH_CALIBRATION:
        calib = ("--calib", "random")
    yield Call(
        "run",
        ("run", recipe, model, *timing, *evaluation, *(calib or data[len(evaluation) :])),
        makes_model=True,
        exact=recipe == "cpu-latency",
        has_data=bool(data),
    )
    yield Call("log", ("log", "{result}"), needs="prune")


def _quantizing(
    subject: Subject, timed: tuple[str, ...], data: tuple[str, ...], preprocess: tuple[str, ...]
) -> Iterator[Call]:
    model = timed[-1]
    calib = "random" if subject.calib is None else str(subject.calib)
    static = ("--calib", calib, "--calib-limit", _CALIB_SAMPLES, *(preprocess if not data else ()))
    for column, arguments in (
        ("static", ("quantize", *timed, *static, *data)),
        ("static --no-search", ("quantize", "--no-search", "--no-bench", *_LIMITS, model, *static, *data)),
        ("dynamic", ("quantize", "--mode", "dynamic", *timed, *data)),
        ("fp16", ("quantize", "--mode", "fp16", *timed, *data)),
        ("bf16", ("quantize", "--mode", "bf16", *timed, *data)),
        ("weights", ("quantize", "--mode", "weights", "--no-bench", *_LIMITS, model, *data)),
        ("storage", ("quantize", "--mode", "storage", "--no-bench", *_LIMITS, model, *data)),
    ):
        yield Call(column, arguments, makes_model=True, has_data=bool(data) or subject.calib is not None)
