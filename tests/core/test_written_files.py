"""What a command says that it has written, whenever it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelopt import io
from modelopt.core import written_files
from modelopt.io import staged_output
from tests.io_tools import SAMPLE, load


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    written_files.forget()
    yield
    written_files.forget()


def test_a_file_counts_once_it_has_its_name(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    after.write_text("old")
    before.write_text("new")
    assert written_files.described() == "nothing was written"
    written_files.note(before, after)
    assert written_files.described() == "nothing was written"
    before.replace(after)
    assert written_files.described() == f"{after} was written"


def test_an_output_is_named_where_the_interrupt_comes_after_its_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_paths: object) -> None:
        raise KeyboardInterrupt

    source, output, report = load(SAMPLE), tmp_path / "m.onnx", tmp_path / "r.json"
    with io.staged(source.model, output, source=source, unchanged=False) as staged:
        staged.settle()
        io.replace_file(report, b"{}")
        monkeypatch.setattr(staged_output, "sync", interrupted)
        assert written_files.described() == f"{report} was written"
        with pytest.raises(KeyboardInterrupt):
            staged.commit()
    assert output.exists()
    assert written_files.described() == f"{report} was written; {output} was written"


def test_an_output_on_stdout_may_be_cut_short() -> None:
    written_files.note_piped()
    assert written_files.described() == "the model on standard output may be cut short"
