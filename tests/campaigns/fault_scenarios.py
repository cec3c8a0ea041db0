"""Commands that overwrite their outputs, run again and again, and what must hold after each run, however it ended."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.command_line import CALIB, COMMAND, PATIENCE, sample

DOCUMENTED = {0, 1, 2, 3, 4, 129, 130, 141, 143}
"""The exit codes of the README but 70, which is a bug of ours."""


@dataclass(frozen=True)
class Scenario:
    """A command that overwrites its outputs.

    Attributes:
        name: For the table.
        model: The sample model that it reads, as ``in.onnx``.
        arguments: Of the command.
        external: The input and the output keep their weights in a data file.
        outputs: Further files that it writes, beside ``out.onnx``.
    """

    name: str
    model: str
    arguments: tuple[str, ...]
    external: bool = False
    outputs: tuple[str, ...] = ()


SCENARIOS = (
    Scenario("inline", "digits_cnn", ("fuse", "in.onnx", "-o", "out.onnx", "--no-bench", "--no-verify")),
    Scenario(
        "external",
        "digits_cnn",
        ("fuse", "in.onnx", "-o", "out.onnx", "--no-bench", "--no-verify", "--external-data", "always"),
        external=True,
    ),
    Scenario("copy", "digits_mlp", ("fuse", "in.onnx", "-o", "out.onnx", "--no-bench", "--no-verify")),
    Scenario(
        "report",
        "digits_mlp",
        (
            "quantize",
            "in.onnx",
            "-o",
            "out.onnx",
            "--calib",
            "calib.npz",
            "--no-search",
            "--no-bench",
            "--no-verify",
            "--report",
            "report.json",
            "--calib-cache",
            "cache.json",
        ),
        outputs=("report.json", "cache.json"),
    ),
)


class Bench:
    """Runs one scenario again and again in a folder of its own.

    Args:
        scenario: What is run.
        folder: A folder for it that is not there yet.
        extra: Environment variables of every run.
    """

    def __init__(self, scenario: Scenario, folder: Path, extra: Mapping[str, str] | None = None) -> None:
        self.scenario = scenario
        self.work = folder / "work"
        self._template = folder / "template"
        self._extra = dict(extra or {})
        self._template.mkdir(parents=True)
        self._fill(self._template)
        self._old = self._content(self._template)
        self._names = {path.name for path in self._template.iterdir()} | {"out.onnx", *scenario.outputs}
        done = self.run()
        if done.returncode != 0:
            raise RuntimeError(f"{scenario.name}: {done.stderr}")
        self._new = [self._content(self.work)]
        self._left = self._listing()

    def run(self, *, fresh: bool = True, extra: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, in the folder as it was at first or as it is."""
        process = self.start(fresh=fresh, extra=extra)
        out, err = process.communicate(timeout=120 * PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self, *, fresh: bool = True, more: tuple[str, ...] = (), extra: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the command, with `more` arguments and environment variables, and do not wait for it."""
        if fresh:
            self.reset()
        return subprocess.Popen(
            [str(COMMAND), *self.scenario.arguments, *more],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.work),
                "TMPDIR": str(self.work / "tmp"),
                "LANG": "C.UTF-8",
                **self._extra,
                **(extra or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reset(self) -> None:
        """Make the folder what it was at first."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._template, self.work)
        (self.work / "tmp").mkdir()

    def restore(self) -> None:
        """Put the old output and the inputs back; leave what else there is."""
        for path in self._template.iterdir():
            shutil.copy(path, self.work / path.name)

    def accept_present(self) -> None:
        """What the folder holds now is a right result too."""
        self._new.append(self._content(self.work))

    def torn(self, when: str = "", *, keeps_inputs: bool = True) -> Iterator[str]:
        """What is wrong with the inputs, which must be as before, and with the outputs, each old or new as a whole."""
        now = self._content(self.work)
        for name, old in self._old.items():
            if keeps_inputs and name.startswith("in.") and now.get(name) != old:
                yield f"the input {name} was changed{when}"
        for name in ("out.onnx", *self.scenario.outputs):
            if now.get(name) not in {self._old.get(name), *(new.get(name) for new in self._new)}:
                yield f"{name} is neither the old one nor the new one{when}: {now.get(name)}"

    def stray(self) -> set[str]:
        """Files and folders that a run should not have left."""
        return self._listing() - self._left - self._names

    def is_what_another_run_writes(self) -> bool:
        """Whether a run of the present inputs ends well and writes the present output once more."""
        present = self._content(self.work).get("out.onnx")
        return self.run(fresh=False).returncode == 0 and self._content(self.work).get("out.onnx") == present

    def after_another_run(self) -> Iterator[str]:
        """What is wrong after one more run, which is not disturbed and removes what killed ones left."""
        again = self.run(fresh=False)
        if again.returncode != 0:
            yield f"the next run ended with {again.returncode}: {again.stderr}"
        if self._listing() != self._left:
            yield f"the next run left {sorted(self._listing() ^ self._left)}"
        yield from self.torn(" by the next run")

    def _fill(self, folder: Path) -> None:
        scenario = self.scenario
        notes = {"in.onnx": ("the input", "in.onnx.data"), "out.onnx": ("older", "out.onnx.0123456789ab.data")}
        for name, (note, data) in notes.items():
            model = onnx.load(sample(scenario.model))  # anew: `onnx.save` leaves it without its weights
            model.doc_string = note
            if scenario.external:
                onnx.save(model, folder / name, save_as_external_data=True, location=data, size_threshold=0)
            else:
                onnx.save(model, folder / name)
        if "calib.npz" in scenario.arguments:
            shutil.copy(CALIB, folder / "calib.npz")
        if "report.json" in scenario.outputs:
            (folder / "report.json").write_text(_OLD_REPORT)

    def _listing(self) -> set[str]:
        """All files and folders, but data files of outputs, whose names differ from run to run."""
        found = {str(path.relative_to(self.work)) for path in self.work.rglob("*")}
        return {name for name in found if not (name.startswith("out.onnx") and name.endswith(".data"))}

    def _content(self, folder: Path) -> Mapping[str, str]:
        """A digest for each file; of a model, of what it loads as, with the weights of its data file."""
        found = {}
        for path in folder.iterdir():
            if path.suffix == ".onnx" and not path.name.startswith("."):
                found[path.name] = _model_digest(path)
            elif path.is_file() and path.name != "report.json":
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.name == "report.json":
                found[path.name] = _report_digest(path)
        return found


def _model_digest(path: Path) -> str:
    """Of the model with all its weights; the names of data files do not count."""
    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file is the finding
        return f"does not load: {error}"
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


_OLD_REPORT = '{"schema": "modelopt-report/0"}\n'
"""What says that a file is a report: another one is not replaced."""


def _report_digest(path: Path) -> str:
    """Times differ from run to run: a report is whole or it is not."""
    text = path.read_text()
    return "old" if text == _OLD_REPORT else "whole" if text.startswith("{") and text.endswith("}\n") else text


def ended_badly(code: int, err: str) -> str | None:
    """What is wrong with how a run ended; None where nothing is."""
    if code in DOCUMENTED and "Traceback" not in err:
        return None
    return f"exit code {code}: {' / '.join(err.splitlines()[-3:])}"
