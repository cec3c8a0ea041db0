"""Temporary files of a run, and those that killed runs have left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelopt.core import temporary
from modelopt.core.errors import EnvironmentLacks

HOLD = """
import os, sys
from modelopt.core import temporary
with temporary.folder() as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
    {then}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, of this process, which has not looked for leftovers there, and of its children."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(temporary, "_RUN", type(temporary._RUN)())
    return tmp_path


def holding(then: str = "") -> tuple[subprocess.Popen[str], Path]:
    """Another process with a temporary folder, which it keeps until its stdin is closed."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip()).parent


def test_all_lies_in_one_folder_which_is_gone_at_the_end(place: Path) -> None:
    with temporary.folder() as first, temporary.folder() as second, temporary.unnamed_file() as file:
        file.write(b"x")
        (run,) = place.iterdir()
        assert run.name.startswith(f"modelopt-{os.getpid()}-")
        assert run.stat().st_mode & 0o777 == 0o700
        assert {first.parent, second.parent} == {run}
        assert temporary.is_temporary(first / "a.onnx")
        assert not temporary.is_temporary(place / "a.onnx")
    assert list(place.iterdir()) == []


def test_the_folder_of_a_run_that_lives_stays_and_that_of_a_killed_one_goes(place: Path) -> None:
    killed, left = holding()
    killed.kill()
    killed.communicate()
    assert (left / "1" / "file").exists()
    living, kept = holding()
    assert not left.exists()
    with temporary.folder():
        assert kept.exists()
    assert living.communicate("")[1] == ""
    assert list(place.iterdir()) == []


def test_a_child_does_not_keep_the_folder_of_a_killed_parent(place: Path) -> None:
    killed, left = holding(
        "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    with killed:
        assert killed.stdin is not None
        assert killed.stdout is not None
        killed.stdin.close()
        child = int(killed.stdout.readline())
    try:
        assert left.exists()
        with temporary.folder():
            assert not left.exists()
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_is_not_ours_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / "modelopt-1-0123abcd").symlink_to(elsewhere)
    (place / "modelopt-2-0123abcd").write_text("a file")
    (place / "modelopt-mine").mkdir()
    with temporary.folder():
        pass
    assert len(list(place.iterdir())) == 4

    (place / "modelopt-3-0123abcd").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(temporary, "_RUN", type(temporary._RUN)())
    with temporary.folder():
        assert (place / "modelopt-3-0123abcd").exists()


def test_a_folder_that_another_run_takes_for_a_leftover_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = temporary._try_lock
    calls: list[int] = []

    def steal(descriptor: int) -> bool | None:
        """Another run removes the folder before it is locked, the first time."""
        calls.append(descriptor)
        if len(calls) == 1:
            next(place.iterdir()).rmdir()
        return lock(descriptor)

    monkeypatch.setattr(temporary, "_try_lock", steal)
    with temporary.folder() as folder:
        assert folder.is_dir()
    assert len(calls) == 2
    assert list(place.iterdir()) == []


def test_without_a_place_it_is_one_line(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(place / "none"))
    monkeypatch.setattr(temporary, "_PLACES", ())
    with pytest.raises(EnvironmentLacks, match="no temporary folder can be made") as caught, temporary.folder():
        pass
    assert "No such file or directory" in str(caught.value.note)
    assert "TMPDIR" in str(caught.value.hint)
