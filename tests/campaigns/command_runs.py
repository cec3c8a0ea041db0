"""Runs the installed command as a user does, each call in fresh folders, and keeps all that it left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.campaigns.answers import Answer, ask
from tests.campaigns.command_calls import Call, Subject
from tests.command_line import COMMAND, environment

RESULT, REPORT = "result.onnx", "report.json"


@dataclass(frozen=True)
class Outcome:
    """What one call left behind.

    Attributes:
        subject: The model.
        call: The call.
        command: The whole command line.
        code: The exit code, negative for a signal; None where the call did not end in time.
        out: Standard output.
        err: Standard error.
        seconds: Wall time.
        result: The model that it wrote, None where there is none.
        report: Its report as data, from ``--report`` or ``--json``; None where there is none.
        created: Files in the folder of the output.
        litter: Files that it left in the working directory, HOME or the folder for temporary files.
        copied: Whether the result is the input, byte for byte.
        size_bytes: Of the result with its data.
        operators: Of the result, in all its bodies and functions.
        original: What the original answers on onnxruntime; None where nobody asked.
        answer: What the result answers; None where there is none.
    """

    subject: Subject
    call: Call
    command: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float
    result: Path | None
    report: Any
    created: frozenset[str] = frozenset()
    litter: frozenset[str] = frozenset()
    copied: bool = False
    size_bytes: int = 0
    operators: frozenset[str] = frozenset()
    original: Answer | None = None
    answer: Answer | None = None


def run_all(subject: Subject, calls: list[Call], folder: Path, limit_seconds: float) -> list[Outcome]:
    """Make all calls for one model, then ask onnxruntime about the models that they wrote.

    Args:
        subject: The model.
        calls: In order: results of earlier ones are arguments of later ones.
        folder: An empty folder to work in.
        limit_seconds: A call that takes longer is ended.
    """
    outcomes: list[Outcome] = []
    made: dict[str, Path] = {}
    for number, call in enumerate(calls):
        if call.needs and call.needs not in made:
            continue
        argument = str(made[call.needs]) if call.needs else ""
        outcome = run(subject, call, argument, folder / str(number), limit_seconds)
        if outcome.result is not None and outcome.code == 0:
            made[call.column] = outcome.result
        outcomes.append(outcome)
    return _with_answers(subject, outcomes)


def run(subject: Subject, call: Call, argument: str, folder: Path, limit_seconds: float) -> Outcome:
    """Make one call.

    Args:
        subject: The model.
        call: The call.
        argument: What stands for ``{result}``.
        folder: Does not exist yet.
        limit_seconds: A call that takes longer is ended.
    """
    places = {name: folder / name for name in ("cwd", "home", "tmp", "out")}
    for place in places.values():
        place.mkdir(parents=True)
    result, report = places["out"] / RESULT, places["out"] / REPORT
    command = [str(COMMAND), *(part.replace("{result}", argument) for part in call.arguments)]
    if call.makes_model:
        command += ["-o", str(result)]
        command += [] if call.as_json else ["--report", str(report)]
    started = time.perf_counter()
    code, out, err = _ended(command, places, limit_seconds)
    return Outcome(
        subject=subject,
        call=call,
        command=tuple(command),
        code=code,
        out=out,
        err=err,
        seconds=time.perf_counter() - started,
        result=result if result.exists() else None,
        report=_json(out) if call.as_json else _json(report.read_text()) if report.exists() else None,
        created=_files(places["out"]),
        litter=frozenset().union(*(_files(places[name]) for name in ("cwd", "home", "tmp"))),
        copied=result.exists() and result.read_bytes() == subject.model.read_bytes(),
        size_bytes=sum(path.stat().st_size for path in places["out"].glob(f"{RESULT}*")),
        operators=frozenset(_operators(result)) if result.exists() else frozenset(),
    )


def _ended(command: list[str], places: dict[str, Path], limit_seconds: float) -> tuple[int | None, str, str]:
    process = subprocess.Popen(
        command,
        cwd=places["cwd"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(places["home"], TMPDIR=str(places["tmp"])),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):  # the group is this call's own
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        return None, out.decode(errors="replace"), err.decode(errors="replace")
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _operators(model: Path) -> Iterator[str]:
    try:
        proto = onnx.load(model, load_external_data=False)
    except DecodeError:
        return
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node.op_type
        pending += [each for one in node.attribute for body in (one.g, *one.graphs) for each in body.node]


def _files(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _with_answers(subject: Subject, outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes with what onnxruntime says of the original and of each model that was written."""
    written = [outcome for outcome in outcomes if outcome.result is not None]
    data = subject.evaluation or subject.calib
    results = [(outcome.result, outcome.call.exact) for outcome in written if outcome.result is not None]
    original, answers = ask(subject.model, results, data)
    by_call = {id(outcome): answer for outcome, answer in zip(written, answers, strict=True)}
    return [replace(outcome, original=original, answer=by_call.get(id(outcome))) for outcome in outcomes]
