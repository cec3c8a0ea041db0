"""The help, and what shells complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import modelopt


def test_no_command_and_help_print_the_help(tmp_path: Path) -> None:
    help_ = modelopt("--help", cwd=tmp_path).succeeded().out
    assert modelopt(cwd=tmp_path).succeeded().out == help_
    assert modelopt("help", cwd=tmp_path).succeeded().out == help_
    assert modelopt("help", "fuse", cwd=tmp_path).succeeded().out == modelopt("fuse", "--help", cwd=tmp_path).out
    modelopt("help", "fusee", cwd=tmp_path).refused(2, "unknown command 'fusee'", "did you mean 'fuse'?")


def test_completion(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert b"_MODELOPT_COMPLETE" in modelopt("completion", shell, cwd=tmp_path).succeeded().out


def test_completion_starts_no_shell(tmp_path: Path) -> None:
    """Another machine may use the script, and the shell may be a file that the user does not expect to be run."""
    shell = tmp_path / "bash"
    shell.write_text("#!/bin/sh\ntouch started\n")
    shell.chmod(0o755)
    done = modelopt("completion", "bash", cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}).succeeded()
    assert (done.created, done.err) == (frozenset(), "")


def completed(shell: str, *words: str, cwd: Path) -> list[str]:
    """What `shell` is offered for the last word, a line each."""
    variables = {"_MODELOPT_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
    variables["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    return modelopt(cwd=cwd, env=variables).succeeded().out.decode().splitlines()


@pytest.mark.parametrize(
    "words",
    [("quantize", "--calib"), ("quantize", "--eval"), ("bench", "--data"), ("fuse", "--metric"), ("fuse", "--report")],
)
def test_shells_complete_files_where_data_are_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert completed("bash", "modelopt", *words, "cal", cwd=tmp_path) == ["file,cal"]


def test_shells_complete_words_where_words_are_known(tmp_path: Path) -> None:
    assert completed("bash", "modelopt", "fuse", "--provider", "c", cwd=tmp_path) == ["plain,cpu", "plain,cuda"]
    assert completed("bash", "modelopt", "fuse", "--metric", "top", cwd=tmp_path) == ["plain,top1", "plain,top5"]


def test_fish_shows_descriptions_with_commas_whole(tmp_path: Path) -> None:
    """The script splits each line at its first comma only."""
    assert 'string split --max 1 "," $completion' in modelopt("completion", "fish", cwd=tmp_path).out.decode()
    (line,) = completed("fish", "modelopt", "quantize", "--max-dr", cwd=tmp_path)
    assert line == "plain,--max-drop\tFail if the metric falls by more than this, e.g. 1%."


def test_completion_without_the_words_of_the_shell_is_refused(tmp_path: Path) -> None:
    run = modelopt("inspect", cwd=tmp_path, env={"_MODELOPT_COMPLETE": "bash_complete", "COMP_WORDS": "modelopt"})
    run.refused(2, "_MODELOPT_COMPLETE=bash_complete without COMP_CWORD")
