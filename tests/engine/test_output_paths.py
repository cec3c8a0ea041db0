"""What a run writes is no file that it reads, that it writes for something else, or that is something else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from modelopt import io
from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.engine import optimize, output_paths
from modelopt.engine.request import Request
from modelopt.passes.fuse_conv_bn import FuseConvBn
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Recipe
from modelopt.report import Report
from modelopt.runtime.limits import Limits
from tests.command_line import CNN
from tests.io_tools import W, external, model_file

MODEL = b"\x08\x0a\x3a\x00"
"""An IR version and an empty graph."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of each kind that a run reads."""
    for name in ("c.npz", "e.npz", "labels.txt", "r.yaml", "d.py", "m.py", "ops.so", "gpu.json", "data/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"of the user")
    (tmp_path / "m.onnx").write_bytes(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _request(**changes: Any) -> Request:
    """A request that reads a file of each kind."""
    recipe = Recipe(
        steps=(),
        calibration=DataSpec(data="c.npz"),
        evaluate=EvaluateSpec(data="e.npz", labels="labels.txt", metric=("cosine", "m.py:score")),
        bench=BenchSpec(provider_options={"config": "gpu.json", "device_type": "CPU"}),
    )
    limits = replace(Limits.default(), op_libraries=("ops.so",))
    request = Request(recipe=recipe, model=Path("m.onnx"), output=Path("o.onnx"), limits=limits)
    return replace(request, recipe_file=Path("r.yaml"), **changes)


def _calibrating(data: str) -> Recipe:
    recipe = _request().recipe
    return replace(recipe, calibration=DataSpec(data=data), gates=Gates())


def test_a_run_that_loses_nothing_is_let_through(folder: Path) -> None:
    request = _request(
        report_file=Path("r.json"), calibration_cache=Path("c.json"), dump_folder=Path("dumps"), if_exact=Path("x.onnx")
    )
    output_paths.require(request)
    output_paths.require_kept(request, [Path("w.bin")])


@pytest.mark.parametrize(
    ("name", "role"),
    {
        "m.onnx": "the input",
        "c.npz": "the calibration data",
        "e.npz": "the evaluation data",
        "labels.txt": "the labels of the evaluation data",
        "m.py": "the Python file of a metric",
        "r.yaml": "the recipe",
        "ops.so": "an operator library",
        "gpu.json": "the file of the provider's option config",
    }.items(),
)
@pytest.mark.parametrize("way", ["path", "dots", "link", "hard link"])
def test_no_output_is_a_file_that_the_run_reads(folder: Path, name: str, role: str, way: str) -> None:
    path = Path(name)
    if way == "dots":
        path = folder / "data" / ".." / name
    elif way == "link":
        path = folder / "link"
        path.symlink_to(name)
    elif way == "hard link":
        path = folder / "link"
        os.link(name, path)
    written: Mapping[str, str] = {
        "output": "the output",
        "if_exact": "the output",
        "if_unchanged": "the output",
        "report_file": "the report",
        "calibration_cache": "the calibration cache",
    }
    for field, what in written.items():
        with pytest.raises(InputError) as caught:
            output_paths.require(_request(force=True, **{field: path}))  # force never permits that
        assert caught.value.fact == f"{what} {path} is {role}"
        assert (caught.value.note is not None) == (role == "the input")


def test_no_output_is_a_file_of_a_folder_of_data(folder: Path) -> None:
    request = _request(recipe=_calibrating("data"))
    (folder / "data" / "deep").mkdir()
    (folder / "data" / "deep" / "far.npy").symlink_to(folder / "far")
    (folder / "far").write_bytes(b"behind a link")
    for path in (Path("data/a.png"), Path("far")):
        with pytest.raises(InputError, match=f"the output {path} is a file of the calibration data"):
            output_paths.require(replace(request, output=path))
    (folder / "data" / "m.int8.onnx").write_bytes(MODEL)  # of an earlier run: a folder may hold a model and its data
    output_paths.require(replace(request, output=Path("data/m.int8.onnx")))
    output_paths.require(replace(request, output=Path("data/new.onnx")))


def test_the_python_file_of_data_is_read(folder: Path) -> None:
    with pytest.raises(InputError, match="is the Python file of the calibration data"):
        output_paths.require(_request(recipe=_calibrating("d.py:samples"), output=Path("d.py")))


def test_no_file_is_written_for_two_things(folder: Path) -> None:
    (folder / "link.json").symlink_to("same.json")  # there is no such file yet
    for fields, fact in (
        ({"output": Path("same.json"), "report_file": Path("same.json")}, "the output same.json is the report too"),
        ({"output": Path("same.json"), "report_file": Path("link.json")}, "the output same.json is the report too"),
        ({"output": folder / "same", "calibration_cache": Path("data/../same")}, "is the calibration cache too"),
        ({"report_file": Path("c.json"), "calibration_cache": Path("c.json")}, "the report c.json is the calib"),
        ({"calibration_cache": Path("o.onnx.0123456789ab.data")}, "has the name of a data file of the output"),
        ({"dump_folder": Path(), "output": Path("01-fold.onnx")}, "the output 01-fold.onnx has the name of a dump"),
        ({"dump_folder": folder, "model": Path("02-x.onnx")}, "the input 02-x.onnx has the name of a dump"),
        ({"dump_folder": Path("r.yaml")}, "the dump folder r.yaml is a file"),
    ):
        with pytest.raises(InputError, match=fact):
            output_paths.require(_request(**fields))


def test_no_dump_is_a_file_that_the_run_reads(folder: Path) -> None:
    os.link("m.onnx", "data/01-fold.onnx")
    with pytest.raises(InputError, match=r"the dump data/01-fold\.onnx is the input"):
        output_paths.require(_request(dump_folder=Path("data")))


def test_no_output_is_a_data_file_of_the_input(folder: Path) -> None:
    (folder / "w.onnx.data").write_bytes(W.tobytes())
    source = io.load(model_file(folder, external("w.onnx.data"), "w.onnx"), scratch=folder)
    request = _request(output=Path("w.onnx.data"), force=True)
    output_paths.require(request)
    with pytest.raises(InputError, match=r"the output w\.onnx\.data is a data file of the input"):
        output_paths.require_kept(request, source.data_files)


def test_only_files_of_its_kind_are_replaced_without_force(folder: Path) -> None:
    report = msgspec.json.format(msgspec.json.encode({"schema": "modelopt-report/9"}), indent=2)
    for name, content in {
        "model.onnx": MODEL,
        "report.json": report,
        "report.md": "# a.onnx → b.onnx\n\n".encode(),
        "package.json": b'{"name": "package"}',
        "README.md": b"# Project\n\n",
        "cache.json": b'{"format":"modelopt-calibration-1","entries":{}}',
        "empty": b"",
        "dumps/01-fold.onnx": MODEL,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for field, replaced, refused, what in (
        ("output", ["model.onnx", "empty"], ["README.md", "report.json"], "a model"),
        ("if_unchanged", ["model.onnx", "empty"], ["README.md"], "a model"),
        ("report_file", ["report.json", "report.md", "empty"], ["README.md", "package.json"], "a report of modelopt"),
        ("calibration_cache", ["cache.json", "empty"], ["package.json", "model.onnx"], "a calibration cache"),
    ):
        for name in replaced:
            output_paths.require_kept(_request(**{field: Path(name)}), [])
        for name in refused:
            with pytest.raises(InputError, match=f"{name} would replace a file that is not {what}") as caught:
                output_paths.require_kept(_request(**{field: Path(name)}), [])
            assert "--force" in str(caught.value.hint)
            output_paths.require_kept(_request(force=True, **{field: Path(name)}), [])
    output_paths.require_kept(_request(dump_folder=Path("dumps")), [])
    (folder / "dumps" / "01-fold.onnx.data").write_bytes(np.zeros(4).tobytes())
    with pytest.raises(InputError, match="that is not a dump"):
        output_paths.require_kept(_request(dump_folder=Path("dumps")), [])
    (folder / "dumps" / "01-fold.onnx.data").unlink()
    assert files == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("why", [None, "the disk is full"])
def test_the_report_is_kept_before_the_output_gets_its_name(tmp_path: Path, why: str | None) -> None:
    written = tmp_path / "o.onnx"
    seen: list[Report] = []

    def finish(report: Report) -> Report:
        seen.append(report)
        assert not written.exists()
        if why is not None:
            raise EnvironmentLacks(why)
        return msgspec.structs.replace(report, notes=("as it was kept",))

    recipe = Recipe(steps=(FuseConvBn(),), verify=False)
    request = Request(recipe=recipe, model=CNN, output=written, finish=finish)
    if why is not None:
        with pytest.raises(EnvironmentLacks, match=why):
            optimize.run(request)
        assert list(tmp_path.iterdir()) == []
        return
    report = optimize.run(request)
    assert (report.notes, [each.written for each in seen]) == (("as it was kept",), [True])
    assert list(tmp_path.iterdir()) == [written]
