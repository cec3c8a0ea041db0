"""Array files that are damaged, hostile or change underway end in one error, not in a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelopt.core.errors import InputError, ModeloptError
from modelopt.data import Sample, arrayfile, open_data, user_files
from tests.data_tools import X, error, floats, npz, spec, unknown


def _npy(header: bytes, payload: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + payload


def _pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([None], dtype=object), allow_pickle=True)
    return stream.getvalue()


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "magic only": b"\x93NUMPY\x01\x00",
    "version 9": _npy(b"{}", version=b"\x09\x00"),
    "4 GB declared": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 4)}\n"),
    "astronomic": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 300 + b", 4)}\n"),
    "negative": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}\n", bytes(16)),
    "no width": _npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000, 4)}\n"),
    "endless empty": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 0)}\n"),
    "nested": _npy(b"(" * 9000 + b"\n"),
    "negations": _npy(b"-" * 9000 + b"1\n"),
    "code": _npy(b"__import__('os').system('true')\n"),
    "bad dtype": _npy(b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1, 4)}\n", bytes(16)),
    "odd dtype": _npy(b"{'descr': [('a', 3)], 'fortran_order': False, 'shape': (1, 4)}\n", bytes(16)),
    "record": _npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 4)}\n", bytes(16)),
    "python 2": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (9L, 4L)}\n", bytes(16)),
    "objects": _pickled(),
}


@pytest.mark.parametrize("inside_zip", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrays_are_input_errors(tmp_path: Path, name: str, *, inside_zip: bool) -> None:
    path = tmp_path / ("x.npz" if inside_zip else "x.npy")
    if inside_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", HOSTILE[name])
    else:
        path.write_bytes(HOSTILE[name])
    error(InputError, str(path), [X if name != "endless empty" else spec("x", "n", 0)])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".npz", ".npy"]))
def test_no_damage_is_a_traceback(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    stream = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(stream, x=floats(2, 4), labels=np.arange(2))
    else:
        np.save(stream, floats(2, 4))
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ModeloptError):
        assert all(isinstance(sample, Sample) for sample in open_data(str(path), [X], allow_nonfinite=True))


def test_bombs_are_refused_before_they_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "MAX_ARRAY_BYTES", 1000)
    assert "unpacks" in error(InputError, npz(tmp_path, x=floats(100, 4)), [X]).fact
    np.save(tmp_path / "x.npy", floats(100, 4))
    assert len(open_data(str(tmp_path / "x.npy"), [X])) == 100  # mapped: only a sample is in memory
    assert "one sample" in error(InputError, str(tmp_path / "x.npy"), [unknown("x")]).fact


def test_a_header_that_is_longer_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (2**31 - 1).to_bytes(4, "little"))
        file.truncate(2**31 + 11)  # the bytes are there, in a file without blocks
    assert "2147483647 bytes" in str(error(InputError, str(path), [X]).note)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + (50_000).to_bytes(4, "little") + bytes(50_000))
    assert "50000 bytes" in str(error(InputError, str(tmp_path / "x.npz"), [X]).note)


def _zeros(path: Path, n_bytes: int, name: str = "x.npy") -> None:
    """Write an archive with an array float32[n, 4] of zeros, without holding it."""
    header = io.BytesIO()
    shape = (n_bytes // 16, 4)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(n_bytes >> 20):
            member.write(bytes(1 << 20))


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    _zeros(path, 80 << 20)
    assert path.stat().st_size < 1 << 20
    found = error(InputError, str(path), [X])
    assert found.note == f"{(80 << 20) + 128} bytes unpacked, the limit is {64 << 20}"
    assert "does not compress" in str(found.hint)


def test_members_that_share_their_bytes_count_each(tmp_path: Path) -> None:
    """Ninety entries of the table of contents name one compressed array."""
    path = tmp_path / "x.npz"
    _zeros(path, 1 << 20)
    content = path.read_bytes()
    table, end = content.rindex(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    entry = content[table:end]
    entries = [entry, *(entry.replace(b"x.npy", b"%05d" % i) for i in range(90))]
    listed = b"".join(entries)
    tail = content[end : end + 8] + (91).to_bytes(2, "little") * 2 + len(listed).to_bytes(4, "little")
    path.write_bytes(content[:table] + listed + tail + content[end + 16 :])
    assert "unpacks to more" in error(InputError, str(path), [X]).fact


def test_what_does_not_compress_unpacks_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrayfile, "_ALWAYS_UNPACKED_BYTES", 1000)
    noise = np.random.default_rng(0).random((5000, 4), np.float32)
    np.savez(tmp_path / "stored.npz", x=noise)
    np.savez_compressed(tmp_path / "packed.npz", x=np.repeat(noise[:300], 16, axis=0))
    for name, rows in (("stored.npz", 5000), ("packed.npz", 4800)):
        assert len(open_data(str(tmp_path / name), [X])) == rows


def test_an_archive_of_too_many_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(5000):
            archive.writestr(f"../{i}.npy", b"")
    assert error(InputError, str(path), [X]).fact.endswith("holds 5000 arrays")
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(300):
            archive.writestr(f"{i}{'x' * 5000}.npy", b"")
    assert "table of contents" in error(InputError, str(path), [X]).fact


def test_arrays_that_are_not_used_are_listed_in_part(tmp_path: Path) -> None:
    spare = {f"../{i}": floats(1) for i in range(30)}
    assert len(open_data(npz(tmp_path, x=floats(2, 4), **spare), [X]).notes) == 6
    found = error(InputError, npz(tmp_path, **spare), [X])
    assert "and 10 more" in str(found.note)


def test_an_element_of_a_megabyte_is_read(tmp_path: Path) -> None:
    text = spec("x", "n", dtype="string")
    words = np.array(["a" * 400_000, "b"])
    np.savez(tmp_path / "x.npz", x=words)
    assert [str(sample.feeds["x"][0])[:1] for sample in open_data(str(tmp_path / "x.npz"), [text])] == ["a", "b"]


def test_random_samples_without_end_are_refused() -> None:
    assert "too many" in error(InputError, "random", [X], limit=10**9).fact


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n" + "x" * 1_000_000 + "\n" + "a\n" * 9998, "1000000 characters"),
        ("a," + "x" * 200_000 + "\na,b", "200002 characters"),
        ("1\n" * 2_100_000, "more than 2000000 lines"),
        ("1\r" * 2_100_000, "more than 2000000 lines"),
        ("x" * 4999 + "\n" + "a\n" * 20_000, "too long to be kept"),
    ],
    ids=["a long word", "a long cell", "lines", "lines of old", "many words and a long one"],
)
def test_labels_without_end_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "labels.txt").write_text(text, newline="")
    found = error(InputError, npz(tmp_path, x=floats(2, 4)), [X], labels=tmp_path / "labels.txt")
    assert words in f"{found.fact} {found.note}"


def test_odd_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    stream = io.BytesIO()
    np.save(stream, floats(2, 4))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", stream.getvalue())
    assert "compressed" in error(InputError, str(path), [X]).fact
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", stream.getvalue())
    assert "same name" in error(InputError, str(path), [X]).fact


def test_a_file_that_changes_underway_is_an_error(tmp_path: Path) -> None:
    dataset = open_data(npz(tmp_path, x=floats(2, 4)), [X])
    npz(tmp_path, x=floats(3, 4))
    with pytest.raises(InputError, match="changed"):
        list(dataset)
    (tmp_path / "calib.npz").unlink()
    with pytest.raises(InputError, match="no such file"):
        list(dataset)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs on this system")
def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    assert "regular" in error(InputError, str(tmp_path / "x.npz"), [X]).fact
    assert "regular" in error(InputError, str(tmp_path), [X]).fact


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hi")
    (tmp_path / "feeds.py").write_text("")
    assert "empty" in error(InputError, str(tmp_path / "empty"), [X]).fact
    assert "not data" in error(InputError, str(tmp_path / "notes.txt"), [X]).fact
    assert "feeds.py:function" in str(error(InputError, str(tmp_path / "feeds.py"), [X]).hint)
    assert "holds no data" in error(InputError, str(tmp_path), [X]).fact
    assert "does not exist either" in str(error(InputError, str(tmp_path / "a" / "b.npz"), [X]).hint)
    error(InputError, "a\0b", [X])
    error(InputError, "x" * 5000, [X])
