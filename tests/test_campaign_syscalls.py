"""The campaign of system calls in small, and that it finds what it looks for; `make syscalls` runs it whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.campaigns import syscalls
from tests.campaigns.system_calls import Places, judge, missing, read, traced
from tests.command_line import environment

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

_INTRUDER = """
import os, pathlib, socket, subprocess, sys
folder = pathlib.Path(sys.argv[1])
(folder / "out/result").write_text("allowed")
(folder / "tmp/modelopt-1").mkdir()
(folder / "tmp/modelopt-1/part").write_text("allowed")
(folder / "tmp/other").write_text("no")
(folder / "tmp/modelopt-1/../escaped").write_text("no")
pathlib.Path("relative").write_text("no")
(folder / "cwd/settings").read_text()
(folder / "in/model").read_text()
(folder / "neighbour").read_text()
os.rename(folder / "out/result", folder / "moved")
subprocess.run(["/bin/true"])
os.kill(os.getppid(), 0)
socket.socketpair()
with socket.socket() as client:
    client.settimeout(1)
    client.connect_ex(("127.0.0.1", 9))
"""


def test_each_kind_of_intrusion_is_found(tmp_path: Path) -> None:
    for name in ("in", "out", "tmp", "cwd", "trace"):
        (tmp_path / name).mkdir()
    for name in ("cwd/settings", "in/model", "neighbour"):
        (tmp_path / name).write_text("")
    script = tmp_path / "in/intruder.py"
    script.write_text(_INTRUDER)
    places = Places(
        outputs=(tmp_path / "out",),
        temporary=tmp_path / "tmp",
        inputs=(script, tmp_path / "in/model"),
        forbidden=(tmp_path / "cwd/settings",),
        directory=tmp_path / "cwd",
    )
    done, calls = traced(
        [sys.executable, script, tmp_path], tmp_path / "cwd", environment(tmp_path), tmp_path / "trace"
    )
    assert done.returncode == 0, done.stderr
    found = judge(calls, places)
    expected = (
        f"writes {tmp_path}/tmp/other",
        f"writes {tmp_path}/tmp/escaped",
        f"writes {tmp_path}/cwd/relative",
        f"reads {tmp_path}/cwd/settings",
        f"writes {tmp_path}/moved",
        "starts /bin/true",
        "reaches another process: kill",
        "socket(AF_INET",
        "connect(",
    )
    assert [each for each in expected if not any(wrong.startswith(each) for wrong in found.wrong)] == []
    assert [wrong for wrong in found.wrong if not wrong.startswith(expected)] == []
    assert str(tmp_path / "neighbour") in found.elsewhere
    assert (found.processes, found.written) == (2, 4)


def test_a_call_that_never_ended_counts(tmp_path: Path) -> None:
    trace = tmp_path / "trace.7"
    trace.write_text("connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(80)}, 16 <unfinished ...>\n")
    places = Places((), tmp_path, (), (), tmp_path)
    assert len(judge(read(trace), places).wrong) == 1


def test_some_commands_keep_to_themselves(tmp_path: Path) -> None:
    chosen = {"fuse, external data, report", "quantize, static, cache", "completion"}
    rows = list(syscalls.campaign(tmp_path, [call for call in syscalls.CALLS if call.name in chosen]))
    assert [(row.call.name, row.judgement.wrong) for row in rows if row.judgement.wrong] == []
    assert len(rows) == len(chosen)
    assert all(row.judgement.processes >= 1 and row.judgement.calls > 100 for row in rows)
    assert rows[0].judgement.written > 4
