"""Models that come through stdin and go to stdout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelopt import io
from modelopt.core.errors import InputError, Refused
from tests.io_tools import SAMPLE, Pipe, external, load


def test_stdin_is_spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = SAMPLE.read_bytes()
    monkeypatch.setattr(sys, "stdin", Pipe(data))

    loaded = io.load(io.STDIO, scratch=tmp_path)

    assert loaded.shown == "<stdin>"
    assert loaded.path.read_bytes() == data
    assert loaded.path.parent == tmp_path


def test_nothing_on_stdin_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe())
    with pytest.raises(InputError, match="<stdin> is empty") as caught:
        io.load(io.STDIO, scratch=tmp_path)
    assert caught.value.hint == "an earlier command in a pipeline may have failed"


def test_a_terminal_on_stdin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(terminal=True))
    with pytest.raises(InputError, match="stdin is a terminal"):
        io.load(io.STDIO, scratch=tmp_path)


def test_weights_in_another_file_do_not_come_through_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Pipe(external("w.bin").SerializeToString()))
    with pytest.raises(Refused, match="keeps its weights in another file"):
        io.load(io.STDIO, scratch=tmp_path)


def test_stdout_receives_the_model_at_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load(SAMPLE)
    pipe = Pipe()
    monkeypatch.setattr(sys, "stdout", pipe)

    with io.staged(source.model, io.STDIO, source=source, unchanged=True) as staged:
        assert not pipe.buffer.getvalue()
        staged.commit()

    assert pipe.buffer.getvalue() == SAMPLE.read_bytes()
    assert not staged.path.exists()
