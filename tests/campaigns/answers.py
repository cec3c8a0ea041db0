"""What models answer on onnxruntime, asked by a program of its own: a crash or a stall there is one line here.

The campaign of commands holds what `modelopt` says against this. `answering` is the program.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 30
"""A model that takes longer to load, or to be run on all feeds, has no answer."""


@dataclass(frozen=True)
class Answer:
    """What became of one model on onnxruntime.

    Attributes:
        loads: Whether a session opens.
        problem: Why it does not, or why it could not be run on anything; empty where it could.
        crashed: Whether the process ended while it was open.
        feeds: How many feeds it and the original ran on.
        data_feeds: How many of them are from the data.
        elements: How many output elements were compared.
        data_elements: How many output elements the data give.
        usual_elements: How many output elements random feeds of the usual size give; None where none could be run.
        difference: Where outputs differ by more than rounding; empty where they do not.
    """

    loads: bool
    problem: str = ""
    crashed: bool = False
    feeds: int = 0
    data_feeds: int = 0
    elements: int = 0
    data_elements: int = 0
    usual_elements: int | None = None
    difference: str = ""


def ask(original: Path, results: Sequence[tuple[Path, bool]], data: Path | None) -> tuple[Answer, list[Answer]]:
    """Open the original and the results in child processes, and compare the results that must be the same.

    Args:
        original: The model.
        results: Models made of it, and whether each must answer as the original does.
        data: Samples, keys are input names; constructed feeds are used besides.
    """
    pending = list(results)
    first: Answer | None = None
    found: list[Answer] = []
    while first is None or pending:
        lines, ending = _child(original, pending, data)
        first = first or (lines[0] if lines else Answer(loads=False, problem=ending, crashed=True))
        found += lines[1:]
        pending = pending[len(lines[1:]) :]
        if pending and not lines:  # the original itself ends the process: results are opened alone
            return first, found + [_alone(path) for path, _exact in pending]
        if pending:
            found.append(Answer(loads=False, problem=ending, crashed=True))
            del pending[0]
    return first, found


def _alone(path: Path) -> Answer:
    """Whether it loads, with no original beside it."""
    lines, ending = _child(None, [(path, False)], None)
    return lines[0] if lines else Answer(loads=False, problem=ending, crashed=True)


def _child(original: Path | None, results: Sequence[tuple[Path, bool]], data: Path | None) -> tuple[list[Answer], str]:
    """An answer for the original, where there is one, and for each result up to one that ends the process."""
    task = {
        "original": str(original or ""),
        "data": str(data or ""),
        "results": [[str(path), exact] for path, exact in results],
    }
    process = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.answering"],
        input=json.dumps(task).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    code = process.returncode
    ending = f"exit code {code}" if code >= 0 else f"signal {-code}"
    if code == -signal.SIGALRM:
        ending = f"no answer in {SECONDS} s"
    return [Answer(**json.loads(line)) for line in process.stdout.splitlines()], ending
