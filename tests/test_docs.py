"""The README and docs/ are executed: their console blocks run, and every line that they show is printed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from modelopt import passes
from modelopt.cli import COMMANDS
from modelopt.core.errors import ExitCode
from tests.command_line import COMMAND
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
_BLOCKS = [
    block
    for text in (README, *PAGES.values())
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


def _commands(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def _shape(line: str) -> str:
    """A line up to its first number: figures differ from run to run and machine to machine."""
    return re.sub(r"\s+", " ", re.split(r"[-+]?\d", line)[0]).strip()


_ANYWHERE = """#!/bin/sh
case " $* " in
  " quantize "*" --no-bench "*) exec "{command}" "$@" --target x86-vnni ;;
  " quantize "*) exec "{command}" "$@" --target x86-vnni --no-search --budget 0.3 --warmup 0.1 --rounds 3 ;;
  *" --no-bench "*) exec "{command}" "$@" ;;
  " fold "* | " fuse "* | " prune "*) exec "{command}" "$@" --budget 0.3 --warmup 0.1 --rounds 3 --keep ;;
  *) exec "{command}" "$@" ;;
esac
"""
"""A command `modelopt` that does on any machine what the README shows: what it takes into int8 and whether that is kept
depend on the target and on measured speed. It times for less long, and keeps what that does not show to be as fast: no
figure is compared."""


@pytest.mark.parametrize("block", _BLOCKS, ids=lambda block: block.splitlines()[0][:60])
def test_console_block(block: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    briefly = tmp_path_factory.mktemp("bin")
    (briefly / "modelopt").write_text(_ANYWHERE.format(command=COMMAND))
    (briefly / "modelopt").chmod(0o755)
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    for command, shown in _commands(block):
        expected = int(match[1]) if (match := re.search(r"# exits (\d+)$", command)) else 0
        path = f"{briefly}:{COMMAND.parent}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env={"PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == expected, done.stderr
        printed = {_shape(line) for line in (done.stdout + done.stderr).splitlines()}
        missing = [line for line in shown if _shape(line) not in printed]
        assert not missing, done.stdout + done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} <= {".onnx", ""}


def test_every_command_is_in_the_table() -> None:
    table = re.findall(r"^\| `modelopt (\w+)", README, re.MULTILINE)
    assert table == list(COMMANDS)


def test_every_pass_is_in_the_table_with_its_effect() -> None:
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \|", PAGES["passes.md"], re.MULTILINE))
    assert table == {name: passes.find(name).effect.value for name in passes.NAMES}


def test_links_lead_somewhere() -> None:
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in PAGES.values())):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert "://" in link or (folder / link).is_file(), link


def test_paths_in_the_pages_exist() -> None:
    for text in (README, *PAGES.values()):
        for path in re.findall(r"`((?:modelopt|tests|sample_models)/[\w./-]+)`", text):
            assert "thing" in path or (ROOT / path).exists(), path


def test_every_exit_code_is_documented() -> None:
    for code in ExitCode:
        assert re.search(rf"^\| {code.value} \|", README, re.MULTILINE), code


def test_nothing_names_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".mk", ""} and path.is_file() and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert "../" + "shared" not in text, name
            assert "/wo" + "rk/" not in text, name
