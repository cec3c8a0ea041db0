"""Outputs are whole or not there, and have the permissions and links of any file."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelopt import io
from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.io.access import Access
from tests.io_tools import SAMPLE, external_source, load, names_in, save, weight_of
from tests.paths import ROOT


def test_a_staged_model_loads_before_it_has_its_name(source: io.Loaded, folder: Path) -> None:
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False) as staged:
        assert not (folder / "m.onnx").exists()
        assert np.array_equal(weight_of(load(staged.path)), weight_of(source))
        assert staged.size_bytes == staged.path.stat().st_size
        staged.commit()
    assert names_in(folder) == ["m.onnx"]


def test_without_changes_the_bytes_are_copied(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.onnx"
    odd.write_bytes(SAMPLE.read_bytes() + b"\xf2\xff\x03\x00")  # an unknown field at the end
    save(load(odd), folder / "m.onnx", unchanged=True)
    assert (folder / "m.onnx").read_bytes() == odd.read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, GeneratorExit])
def test_an_interruption_keeps_the_old_output(source: io.Loaded, folder: Path, error: type[BaseException]) -> None:
    (folder / "m.onnx").write_bytes(b"old")
    with pytest.raises(error), io.staged(source.model, folder / "m.onnx", source=source, unchanged=False):
        raise error
    assert (folder / "m.onnx").read_bytes() == b"old"
    assert names_in(folder) == ["m.onnx"]


def test_without_commit_nothing_remains(source: io.Loaded, folder: Path) -> None:
    with io.staged(source.model, folder / "m.onnx", source=source, unchanged=False):
        pass
    assert names_in(folder) == []


@pytest.mark.parametrize("failing_write", [0, 1])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    external = external_source(tmp_path)
    (folder / "m.onnx").write_bytes(b"old")
    real = os.fsync
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > failing_write:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EnvironmentLacks, match="no room to write") as caught:
        save(external, folder / "m.onnx")
    assert caught.value.note == "No space left on device"
    assert names_in(folder) == ["m.onnx"]
    assert (folder / "m.onnx").read_bytes() == b"old"


def test_a_limit_on_file_sizes_is_a_full_disk(source: io.Loaded, folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelopt import io; from modelopt.core import errors\n"
        "source = io.load(Path(sys.argv[1]), scratch=Path('.'))\n"
        "try:\n"
        "    with io.staged(source.model, Path(sys.argv[2]), source=source, unchanged=False): pass\n"
        "except errors.EnvironmentLacks as error: print(error.note)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(source.path), str(folder / "m.onnx")],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert answer.stdout == "File too large\n", answer.stderr
    assert names_in(folder) == []


def test_outputs_have_the_permissions_of_any_new_file(source: io.Loaded, folder: Path) -> None:
    old = os.umask(0o027)
    try:
        save(source, folder / "m.onnx")
        save(load(folder / "m.onnx"), folder / "copy.onnx", unchanged=True)
    finally:
        os.umask(old)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_output_that_is_a_link_stays_one(source: io.Loaded, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (folder / "m.onnx").symlink_to(tmp_path / "real" / "target.onnx")

    save(source, folder / "m.onnx")  # it leads nowhere yet
    save(source, folder / "m.onnx")

    assert (folder / "m.onnx").is_symlink()
    assert names_in(tmp_path / "real") == ["target.onnx"]
    assert np.array_equal(weight_of(load(tmp_path / "real" / "target.onnx")), weight_of(source))


def test_outputs_that_cannot_be_are_refused(source: io.Loaded, folder: Path) -> None:
    (folder / "loop.onnx").symlink_to("loop.onnx")
    os.mkfifo(folder / "fifo")
    before = names_in(folder)
    for output, fact in (
        (folder, "is a directory"),
        (folder / "missing" / "m.onnx", "missing does not exist"),
        (folder / "loop.onnx", "cannot be written to"),
        (folder / "fifo", "is not a regular file"),
        (Path("/dev/null"), "is not a regular file"),
        (folder / f"{'n' * 250}.onnx", "cannot be written to"),
        (source.path / "m.onnx", r"cannot be written to|does not exist"),
    ):
        with pytest.raises(InputError, match=fact):
            save(source, output)
    assert names_in(folder) == before


def test_a_folder_without_permission_is_refused(
    source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", deny)  # root may write anywhere
    with pytest.raises(InputError, match="out cannot be written to") as caught:
        save(source, folder / "m.onnx")
    assert caught.value.note == "Permission denied"


@pytest.mark.parametrize("external", [False, True])
def test_what_replaces_a_file_has_its_mode(tmp_path: Path, source: io.Loaded, folder: Path, external: bool) -> None:
    written = external_source(tmp_path) if external else source
    (folder / "m.onnx").write_bytes(b"old")
    (folder / "m.onnx").chmod(0o600)
    seen: list[int] = []
    where = io.ExternalData.ALWAYS if external else io.ExternalData.AUTO
    with io.staged(written.model, folder / "m.onnx", source=written, unchanged=False, external_data=where) as staged:
        seen += [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()]
        staged.commit()
    assert len(seen) == 2 + external
    assert len(names_in(folder)) == 1 + external
    assert set(seen) == {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_file_that_all_may_read_stays_one(source: io.Loaded, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"old")
    (folder / "m.onnx").chmod(0o444)
    old = os.umask(0o077)
    try:
        save(source, folder / "m.onnx")
    finally:
        os.umask(old)
    assert stat.S_IMODE((folder / "m.onnx").stat().st_mode) == 0o444


def test_what_replaces_a_file_keeps_its_owner(source: io.Loaded, folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    (folder / "m.onnx").write_bytes(b"old")
    os.chown(folder / "m.onnx", 12345, 23456)
    save(source, folder / "m.onnx")
    found = (folder / "m.onnx").stat()
    assert (found.st_uid, found.st_gid) == (12345, 23456)


def test_another_group_gets_no_more_than_everybody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        path.write_bytes(b"")
    old.chmod(0o664)
    rights = Access.of(old)
    assert rights is not None

    def deny(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", deny)
    replace(rights, group=rights.group + 1).give(new)
    assert stat.S_IMODE(new.stat().st_mode) == 0o644


def test_small_files_are_replaced_as_models_are(folder: Path) -> None:
    (folder / "real").write_bytes(b"old")
    (folder / "real").chmod(0o600)
    (folder / "link").symlink_to("real")
    (folder / f".real.{os.getpid()}.tmp").write_bytes(b"of a process that had our number")
    io.replace_file(folder / "link", b"new")
    assert names_in(folder) == ["link", "real"]
    assert (folder / "link").is_symlink()
    assert (folder / "real").read_bytes() == b"new"
    assert stat.S_IMODE((folder / "real").stat().st_mode) == 0o600


def test_a_small_file_is_whole_or_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "m.json").write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentLacks, match="no room to write"):
        io.replace_file(folder / "m.json", b"new")
    assert names_in(folder) == ["m.json"]
    assert (folder / "m.json").read_bytes() == b"old"


def test_standard_output_by_its_other_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "m.onnx").write_bytes(b"")
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout", tmp_path / "link"):
        assert io.names_stdout(Path(path)), path
    for path in ("/dev/stderr", "/dev/fd/11", "/dev/null", "-", tmp_path / "m.onnx", tmp_path / "no"):
        assert not io.names_stdout(Path(path)), path


def test_a_model_is_told_by_its_outermost_fields(tmp_path: Path) -> None:
    model = SAMPLE.read_bytes()
    for number, (content, is_one) in enumerate(
        [
            (model, True),
            (model + b"\xf2\xff\x03\x00", True),  # a field of a later version
            (model[:-1], False),
            (b"", False),
            (b"old", False),
            (b"{}", False),
            (b"PK\x03\x04", False),
            (onnx.helper.make_tensor("t", 1, [2], [1.0, 2.0]).SerializeToString(), False),
            (onnx.helper.make_model(onnx.GraphProto(name="g")).SerializeToString(), True),
        ]
    ):
        path = tmp_path / str(number)
        path.write_bytes(content)
        assert io.is_model(path) is is_one, number
    assert not io.is_model(tmp_path)
    assert not io.is_model(tmp_path / "none")


@pytest.mark.parametrize("max_inline", [2**30, 0], ids=["inline", "external"])
def test_a_dump_replaces_an_older_one_whole_or_not_at_all(
    source: io.Loaded, folder: Path, monkeypatch: pytest.MonkeyPatch, max_inline: int
) -> None:
    path = folder / "01-x.onnx"
    io.rewrite_aside(source.model, path)
    old = path.read_bytes()
    weights = weight_of(load(path)).copy()

    def fails(_path: Path, _chunks: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("modelopt.io.staging.write_chunks", fails)
        with pytest.raises(EnvironmentLacks):
            io.rewrite_aside(source.model, path)
    assert path.read_bytes() == old
    assert names_in(folder) == ["01-x.onnx"]
    monkeypatch.setattr("modelopt.io.staging.MAX_INLINE_BYTES", max_inline)
    io.rewrite_aside(source.model, path)
    assert names_in(folder) == (["01-x.onnx"] if max_inline else ["01-x.onnx", "01-x.onnx.data"])
    assert np.array_equal(weight_of(load(path)), weights)
    monkeypatch.undo()
    io.rewrite_aside(source.model, path)
    assert names_in(folder) == ["01-x.onnx"]
