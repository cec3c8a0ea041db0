"""What the commands ask of the system: no network, no other program, no file but their own.

    python -m tests.campaigns.syscalls [--only NAME …]

Each command runs under strace on sample models, in several modes, with data, reports, caches and external data. It may
not open a connection, start a program other than itself, signal another process, or write a file outside the folder of
its output and its own `modelopt-*` folder for temporary files. The working directory and HOME hold files with the names
of modules and of settings: nothing may read them. What else is read is listed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.campaigns.system_calls import Judgement, Places, judge, missing, traced
from tests.command_line import COMMAND, FAST, calibration, environment, evaluation, sample

_LURES = ("numpy.py", "onnx.py", "onnxruntime.py", "sitecustomize.py", "modelopt.yaml", ".env", "click.py")
"""Files in the working directory and in HOME; a module that is imported from there ends the command."""
_HOME_LURES = (".netrc", ".modeloptrc", ".pythonrc.py", ".config/modelopt.yaml")
_NOTHING_RUN = ("--no-bench", "--no-verify")
_CALIB = ("--calib", "IN/calib.npz")
_EVAL = ("--eval", "IN/eval.npz")


@dataclass(frozen=True)
class Call:
    """One command; ``IN`` and ``OUT`` stand for the folders of inputs and outputs.

    Attributes:
        name: For the table.
        arguments: Of the command.
        code: The exit code that it ends with.
        keeps: The file that its standard output goes to, in the folder of outputs.
    """

    name: str
    arguments: tuple[str, ...]
    code: int = 0
    keeps: str = ""


@dataclass(frozen=True)
class Row:
    """What one command did.

    Attributes:
        call: The command.
        judgement: What its system calls come to.
    """

    call: Call
    judgement: Judgement


CALLS = (
    Call("inspect", ("inspect", "IN/model.onnx")),
    Call("inspect, external data", ("inspect", "IN/external.onnx", "--json")),
    Call("fold", ("fold", "IN/model.onnx", "-o", "OUT/fold.onnx", *FAST, *_EVAL)),
    Call(
        "fuse, external data, report",
        (
            *("fuse", "IN/external.onnx", "-o", "OUT/fuse.onnx", "--external-data", "always", "--no-bench"),
            *("--report", "OUT/fuse.md", "--dump-dir", "OUT/dump"),
        ),
    ),
    Call("fuse, printed recipe", ("fuse", "IN/model.onnx", "--print-recipe"), keeps="recipe.yaml"),
    Call("prune", ("prune", "--sparsity", "0.5", "IN/model.onnx", "-o", "OUT/prune.onnx", *FAST, *_EVAL)),
    Call(
        "quantize, static",
        (
            *("quantize", "IN/model.onnx", "-o", "OUT/static.onnx", *FAST, *_CALIB, *_EVAL),
            *("--calib-cache", "OUT/cache.json", "--report", "OUT/static.json"),
        ),
    ),
    Call(
        "quantize, static, cache",
        (
            *("quantize", "IN/model.onnx", "-o", "OUT/again.onnx", "--no-search", "--explain", *_NOTHING_RUN, *_CALIB),
            *("--calib-cache", "OUT/cache.json", "--report", "OUT/again.json"),
        ),
    ),
    *(
        Call(
            f"quantize, {mode}", ("quantize", "--mode", mode, "IN/model.onnx", "-o", f"OUT/{mode}.onnx", *FAST, *_EVAL)
        )
        for mode in ("dynamic", "weights", "fp16", "storage")
    ),
    Call(
        "quantize, stdout", ("quantize", "--mode", "dynamic", "IN/model.onnx", "-o", "-", *_NOTHING_RUN), keeps="s.onnx"
    ),
    Call("bench", ("bench", "IN/model.onnx", "IN/external.onnx", *FAST)),
    Call("bench, data, noise", ("bench", "IN/model.onnx", "--data", "IN/calib.npz", "--calibrate-noise", *FAST)),
    Call("compare", ("compare", "IN/model.onnx", "OUT/prune.onnx", *FAST, *_EVAL)),
    Call("run, shipped recipe", ("run", "cpu-latency", "IN/model.onnx", "-o", "OUT/run.onnx", *FAST)),
    Call("run, recipe file", ("run", "OUT/recipe.yaml", "IN/model.onnx", "-o", "OUT/file.onnx", "--no-bench")),
    Call("run, schema", ("run", "--schema")),
    Call("log", ("log", "OUT/fold.onnx")),
    Call("recipes", ("recipes", "cpu-latency")),
    Call("passes", ("passes", "fuse-conv-bn")),
    Call("completion", ("completion", "bash")),
    Call("makefile", ("makefile",)),
    Call("no model", ("fold", "IN/calib.npz", "-o", "OUT/none.onnx"), code=2),
    Call(
        "a gate that fails",
        ("quantize", "--mode", "dynamic", "IN/model.onnx", "-o", "OUT/gate.onnx", "--max-size", "1%", *_NOTHING_RUN),
        code=1,
    ),
)


def campaign(folder: Path, calls: Sequence[Call] = CALLS) -> Iterator[Row]:
    """Make the calls in order, all with the same folders: later ones read what earlier ones wrote."""
    places = {name: folder / name for name in ("in", "out", "tmp", "home", "cwd")}
    for place in places.values():
        place.mkdir(parents=True)
    _fill(places["in"])
    lures = [places["cwd"] / name for name in _LURES] + [places["home"] / name for name in (*_LURES, *_HOME_LURES)]
    for lure in lures:
        lure.parent.mkdir(exist_ok=True)
        lure.write_text("raise SystemExit('this file is not for modelopt')\n")
    allowed = Places(
        outputs=(places["out"], places["home"] / ".cache"),
        temporary=places["tmp"],
        inputs=tuple(path for path in places["in"].iterdir()),
        forbidden=tuple(lures),
        directory=places["cwd"],
    )
    for number, call in enumerate(calls):
        trace = folder / "traces" / str(number)
        trace.mkdir(parents=True)
        given = [
            part.replace("IN/", f"{places['in']}/").replace("OUT/", f"{places['out']}/") for part in call.arguments
        ]
        done, seen = traced(
            [COMMAND, *given], places["cwd"], environment(places["home"], TMPDIR=str(places["tmp"])), trace
        )
        if call.keeps:
            (places["out"] / call.keeps).write_bytes(done.stdout)
        judgement = judge(seen, allowed)
        if done.returncode != call.code:
            judgement.wrong.append(f"exit code {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
        judgement.wrong += [f"left {path.name} in the folder for temporary files" for path in places["tmp"].iterdir()]
        yield Row(call, judgement)
        shutil.rmtree(trace)


def _fill(folder: Path) -> None:
    shutil.copy(sample("digits_cnn"), folder / "model.onnx")
    shutil.copy(calibration("digits_cnn"), folder / "calib.npz")
    shutil.copy(evaluation("digits_cnn"), folder / "eval.npz")
    model = onnx.load(sample("digits_cnn"))
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="external.data", size_threshold=0)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[call.name for call in CALLS], metavar="NAME")
    given = parser.parse_args()
    if reason := missing():
        sys.exit(f"syscalls: {reason}")
    chosen = [call for call in CALLS if not given.only or call.name in given.only]
    failed = False
    print("| command | programs | system calls | names written | other files read | wrong |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for row in campaign(Path(folder), chosen):
            found = row.judgement
            other = ", ".join(sorted(found.elsewhere)) or "–"
            cells = (row.call.name, found.processes, found.calls, found.written, other, len(found.wrong))
            print(f"| {' | '.join(str(cell) for cell in cells)} |")
            for wrong in found.wrong:
                failed = True
                print(f"{row.call.name}: {wrong}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
