"""The data files beside outputs: when there is one, how it is named, and when it goes."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from modelopt import io
from modelopt.core.errors import EnvironmentLacks, InputError, Refused
from modelopt.io import datafiles, staging
from tests.io_tools import (
    W,
    data_files_in,
    external,
    external_source,
    load,
    model_file,
    names_in,
    save,
    weight_of,
)
from tests.paths import ROOT


def test_external_data_go_to_a_file_named_by_its_content(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")

    (data,) = data_files_in(folder)
    assert names_in(folder) == ["m.onnx", data]
    assert data.startswith("m.onnx.")
    assert np.array_equal(weight_of(load(folder / "m.onnx")), W)

    save(external_source(tmp_path, 1), folder / "other.onnx")
    assert len({name.removeprefix("m.onnx.").removeprefix("other.onnx.") for name in data_files_in(folder)}) == 2


@pytest.mark.parametrize("unchanged", [False, True])
def test_weights_come_into_the_model_file_where_they_fit(tmp_path: Path, folder: Path, unchanged: bool) -> None:
    source = external_source(tmp_path)
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=unchanged) as staged:
        staged.commit()
    assert names_in(folder) == ["m.onnx"]
    loaded = load(folder / "m.onnx")
    assert not loaded.has_external_data
    assert np.array_equal(weight_of(loaded), W)


def test_a_model_too_large_for_one_file_is_refused_where_one_is_asked_for(
    source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MAX_INLINE_BYTES", 1000)
    never = io.ExternalData.NEVER
    with (
        pytest.raises(Refused, match="does not fit into one file"),
        io.staged(source.model, folder / "m.onnx", source=source, unchanged=False, external_data=never),
    ):
        pass
    assert names_in(folder) == []


def test_a_model_with_strings_and_external_data_is_written(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    model = external("w.bin")
    model.graph.initializer.append(
        TensorProto(name="names", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b" * 2000])
    )
    save(load(model_file(tmp_path, model)), folder / "m.onnx")

    again = onnx.load(folder / "m.onnx", load_external_data=False)
    assert again.graph.initializer[1].string_data == [b"a", b"b" * 2000]


def test_a_replaced_output_takes_its_data_file_with_it(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (old,) = data_files_in(folder)
    unrelated = folder / "m.onnx.0123456789ab.data"
    unrelated.write_bytes(b"named like ours, but the old output does not use it")

    save(external_source(tmp_path, 1), folder / "m.onnx")

    assert old not in data_files_in(folder)
    assert len(data_files_in(folder)) == 2
    assert unrelated.exists()
    assert np.array_equal(weight_of(load(folder / "m.onnx")), W + 1)


def test_a_replaced_output_without_external_data_takes_the_old_data_with_it(
    tmp_path: Path, folder: Path, source: io.Loaded
) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    save(source, folder / "m.onnx")
    assert names_in(folder) == ["m.onnx"]


def test_a_data_file_stays_while_another_model_uses_it(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (folder / "copy.onnx").write_bytes((folder / "m.onnx").read_bytes())
    save(external_source(tmp_path, 1), folder / "m.onnx")
    assert np.array_equal(weight_of(load(folder / "copy.onnx")), W)


def test_a_data_file_stays_while_a_copy_of_any_name_needs_it(tmp_path: Path, folder: Path) -> None:
    for name in ("m.onnx.bak", "backup", ".hidden", "part.onnx"):
        (tmp_path / name).mkdir()
        save(external_source(tmp_path / name), folder / "m.onnx")
        (old,) = data_files_in(folder)
        (folder / name).write_bytes((folder / "m.onnx").read_bytes())
        if name == "part.onnx":  # it is still being copied
            os.truncate(folder / name, (folder / name).stat().st_size - 1)

        notes = _replace(external_source(tmp_path / name, 1), folder / "m.onnx")

        assert notes == (f"the old data file {folder / old} stays: {name} needs it",)
        assert old in data_files_in(folder)
        for path in folder.iterdir():
            path.unlink()


def test_a_copy_in_a_folder_of_its_own_keeps_no_data_file(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (tmp_path / "copy.onnx").write_bytes((folder / "m.onnx").read_bytes())
    (folder / "notes.txt").write_text("\n".join(data_files_in(folder)))  # no model
    (old,) = data_files_in(folder)
    os.link(folder / old, tmp_path / old)

    assert _replace(external_source(tmp_path, 1), folder / "m.onnx") == ()

    assert old not in data_files_in(folder)
    assert np.array_equal(weight_of(load(tmp_path / "copy.onnx", accepted=io.Accepted(hardlinks=True))), W)


def test_a_data_file_that_was_changed_is_not_ours(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (old,) = data_files_in(folder)
    (folder / old).write_bytes((W * 3).tobytes())  # trained further, in place

    (note,) = _replace(external_source(tmp_path, 1), folder / "m.onnx")

    assert note == f"the old data file {folder / old} stays: it is not as modelopt wrote it"
    assert (folder / old).read_bytes() == (W * 3).tobytes()
    with pytest.raises(InputError, match="holds something else"):
        _replace(external_source(tmp_path / "in0"), folder / "m.onnx")  # the same weights as at first
    assert (folder / old).read_bytes() == (W * 3).tobytes()
    assert np.array_equal(weight_of(load(folder / "m.onnx")), W + 1)


def test_a_data_file_stays_where_nobody_can_tell(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (old,) = data_files_in(folder)
    (folder / "m.onnx.gz").write_bytes(gzip.compress((folder / "m.onnx").read_bytes()))
    (folder / "weights.npz").write_bytes(b"PK\x03\x04")
    data = {folder / old}
    assert datafiles.unused(data, [folder / "m.onnx"])[1] == (
        f"the old data file {folder / old} stays: m.onnx.gz is compressed, and may hold a model that needs it",
    )
    (folder / "m.onnx.gz").unlink()
    assert datafiles.unused(data, [folder / "m.onnx"]) == (data, ())
    monkeypatch.setattr(datafiles, "MAX_FILES", 2)
    found, (note,) = datafiles.unused(data, [folder / "m.onnx"])
    assert (found, "more than 2 files" in note) == (set(), True)
    monkeypatch.undo()
    (folder / "other.onnx").write_bytes((tmp_path / "in0" / "model.onnx").read_bytes())
    monkeypatch.setattr(datafiles, "MAX_SEARCHED_BYTES", 10)
    found, (note,) = datafiles.unused(data, [folder / "m.onnx"])
    assert (found, "too large" in note) == (set(), True)
    monkeypatch.undo()
    assert datafiles.unused(data, [folder / "m.onnx"]) == (data, ())

    def deny(*_arguments: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(datafiles, "may_be_model", deny)
    found, (note, *_) = datafiles.unused(data, [folder / "m.onnx"])
    assert (found, "cannot be read" in note) == (set(), True)


def _replace(source: io.Loaded, output: Path) -> tuple[str, ...]:
    """`save` with a data file, and what is said of old ones."""
    always = io.ExternalData.ALWAYS
    with io.staged(source.model, output, source=source, unchanged=False, external_data=always) as staged:
        notes = staged.settle()
        staged.commit()
    return notes


def test_the_input_keeps_its_data_whatever_it_is_called(tmp_path: Path, folder: Path) -> None:
    save(external_source(tmp_path), folder / "m.onnx")
    (folder / "copy").write_bytes((folder / "m.onnx").read_bytes())
    copy = load(folder / "copy")
    initializer = copy.model.graph.initializers["w"]
    initializer.const_value = ir.tensor(W * 2, name="w")

    save(copy, folder / "m.onnx")

    assert np.array_equal(weight_of(load(folder / "copy")), W)
    assert np.array_equal(weight_of(load(folder / "m.onnx")), W * 2)


def test_writing_the_same_again_never_breaks_what_is_there(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external = external_source(tmp_path)
    save(external, folder / "m.onnx")
    before = names_in(folder)

    save(external, folder / "m.onnx")
    assert names_in(folder) == before
    always = io.ExternalData.ALWAYS
    with io.staged(external.model, folder / "m.onnx", source=external, unchanged=True, external_data=always):
        pass  # not committed: the data file belongs to the old output
    assert names_in(folder) == before

    def torn(_payloads: object) -> Iterable[bytes]:
        yield b"half of the"
        assert np.array_equal(weight_of(load(folder / "m.onnx")), W)  # the old output is whole all the time
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelopt.io.serialize.aligned", torn)
    with pytest.raises(EnvironmentLacks):
        save(external, folder / "m.onnx")
    assert names_in(folder) == before
    assert np.array_equal(weight_of(load(folder / "m.onnx")), W)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, folder: Path, source: io.Loaded) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from modelopt import io\n"
        "source = io.load(Path(sys.argv[1]), scratch=Path('.'))\n"
        "into = {'unchanged': False, 'external_data': io.ExternalData.ALWAYS}\n"
        "with io.staged(source.model, Path(sys.argv[2]), source=source, **into):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    victim = external_source(tmp_path)
    save(source, folder / "m.onnx")
    subprocess.run(
        [sys.executable, "-c", code, str(victim.path), str(folder / "m.onnx")],
        cwd=ROOT,
        check=False,
    )
    assert len(names_in(folder)) == 3  # the old output, and what was staged: a model and its data
    assert np.array_equal(weight_of(load(folder / "m.onnx")), weight_of(source))
    (folder / f".m.onnx.{os.getppid()}.tmp.onnx").write_bytes(b"of a process that runs")
    (folder / f".m.onnx.{os.getpid()}.tmp.onnx").write_bytes(b"of one that had our number")
    (folder / ".m.onnx.99999999999999999999.tmp.data").write_bytes(b"of no process at all")
    (folder / ".m.onnx.notes.tmp.onnx").write_bytes(b"not ours")

    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False) as staged:
        staged.commit()

    assert names_in(folder) == [f".m.onnx.{os.getppid()}.tmp.onnx", ".m.onnx.notes.tmp.onnx", "m.onnx"]
