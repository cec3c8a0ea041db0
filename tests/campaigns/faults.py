"""System calls that fail, and processes that end, at every point where the commands write.

    python -m tests.campaigns.faults [--only NAME …] [--step N]

Each scenario overwrites an output that is there. Its system calls that write are counted once. Then it runs again for
each of them: the call answers ENOSPC (and so do all later ones, as on a full disk), EIO, EMFILE or EACCES, or the
process is killed or interrupted there. Afterwards the inputs must be as before, and each output must be the old one or
the new one, whole, with its data file. The exit code must be one that the README documents, with no traceback, and no
file of any other name may be left. After a kill, a second run must leave what an undisturbed run leaves.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tests.command_line import CALIB, COMMAND, sample

_SOURCE = Path(__file__).with_name("faults.c")
_DOCUMENTED = {0, 1, 2, 3, 4, 130, 141, 143}
_COUNT_ONLY = -1
_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Fault:
    """What happens at one system call.

    Attributes:
        name: For the table.
        code: What the call answers; 0: the process is sent `number`.
        number: The signal.
        stays: Later calls that need space fail as well.
    """

    name: str
    code: int = 0
    number: int = 0
    stays: bool = False

    @property
    def kills(self) -> bool:
        """Whether the process has no chance to clean up."""
        return self.number == signal.SIGKILL


FAULTS = (
    Fault("ENOSPC", errno.ENOSPC, stays=True),
    Fault("EIO", errno.EIO),
    Fault("EMFILE", errno.EMFILE),
    Fault("EACCES", errno.EACCES, stays=True),
    Fault("SIGKILL", number=signal.SIGKILL),
    Fault("SIGINT", number=signal.SIGINT),
    Fault("SIGTERM", number=signal.SIGTERM),
)


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


@dataclass(frozen=True)
class Finding:
    """What one run did wrong.

    Attributes:
        scenario: Its name.
        fault: Its name.
        at: The number of the system call.
        wrong: What was found, as one clause.
    """

    scenario: str
    fault: str
    at: int
    wrong: str


class Bench:
    """Runs one scenario again and again in a folder of its own."""

    def __init__(self, scenario: Scenario, folder: Path, library: Path) -> None:
        self._scenario = scenario
        self._library = library
        self._template = folder / "template"
        self._work = folder / "work"
        self._counter = folder / "counter"
        self._template.mkdir(parents=True)
        self._fill(self._template)
        self._old = self._content(self._template)
        self._names = {path.name for path in self._template.iterdir()} | {"out.onnx", *scenario.outputs}
        done = self._run(_COUNT_ONLY, Fault("none"))
        if done.returncode != 0:
            raise RuntimeError(f"{scenario.name}: {done.stderr}")
        self.calls = int.from_bytes(self._counter.read_bytes(), sys.byteorder)
        self._new = self._content(self._work)
        self._left = self._listing()

    def wrong(self, at: int, fault: Fault) -> Iterator[str]:
        """What is wrong after a run with `fault` at the system call `at`."""
        done = self._run(at, fault)
        if fault.kills:
            if done.returncode not in {0, -signal.SIGKILL} | _DOCUMENTED:
                yield f"exit code {done.returncode}"
        elif done.returncode not in _DOCUMENTED or "Traceback" in done.stderr:
            yield f"exit code {done.returncode}: {' / '.join(done.stderr.splitlines()[-3:])}"
        yield from self._torn("")
        if not fault.kills and (more := self._listing() - self._left - self._names):
            yield f"left {sorted(more)}"
        if fault.kills:
            again = self._run(_COUNT_ONLY, Fault("none"), fresh=False)
            if again.returncode != 0:
                yield f"the next run ended with {again.returncode}: {again.stderr}"
            if self._listing() != self._left:
                yield f"the next run left {sorted(self._listing() ^ self._left)}"
            yield from self._torn(" by the next run")

    def _torn(self, when: str) -> Iterator[str]:
        now = self._content(self._work)
        for name, old in self._old.items():
            if name.startswith("in.") and now.get(name) != old:
                yield f"the input {name} was changed{when}"
        for name in ("out.onnx", *self._scenario.outputs):
            if now.get(name) not in {self._old.get(name), self._new.get(name)}:
                yield f"{name} is neither the old one nor the new one{when}"

    def _fill(self, folder: Path) -> None:
        scenario = self._scenario
        model = onnx.load(sample(scenario.model))
        for name, note in (("in.onnx", "the input"), ("out.onnx", "an older output")):
            model.doc_string = note
            if scenario.external:
                data = f"{name}.data"
                onnx.save(model, folder / name, save_as_external_data=True, location=data, size_threshold=0)
            else:
                onnx.save(model, folder / name)
        if "calib.npz" in scenario.arguments:
            shutil.copy(CALIB, folder / "calib.npz")
        if "report.json" in scenario.outputs:
            (folder / "report.json").write_text('{"schema": "modelopt-report/0"}\n')  # without it, it is not replaced

    def _run(self, at: int, fault: Fault, *, fresh: bool = True) -> subprocess.CompletedProcess[str]:
        if fresh:
            shutil.rmtree(self._work, ignore_errors=True)
            shutil.copytree(self._template, self._work)
            (self._work / "tmp").mkdir()
        self._counter.write_bytes(bytes(8))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._work),
            "TMPDIR": str(self._work / "tmp"),
            "LANG": "C.UTF-8",
            "LD_PRELOAD": str(self._library),
            "FAULT_UNDER": str(self._work),
            "FAULT_COUNTER": str(self._counter),
            "FAULT_AT": str(at),
            "FAULT_ERRNO": str(fault.code),
            "FAULT_SIGNAL": str(int(fault.number)),
            "FAULT_STAYS": "1" if fault.stays else "0",
        }
        command = [str(COMMAND), *self._scenario.arguments]
        return subprocess.run(
            command,
            cwd=self._work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
        )

    def _listing(self) -> set[str]:
        """All files and folders, but data files of outputs, whose names differ from run to run."""
        found = {str(path.relative_to(self._work)) for path in self._work.rglob("*")}
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


def _report_digest(path: Path) -> str:
    """Times differ from run to run: a report is whole or it is not."""
    text = path.read_text()
    return "old" if text == "{}\n" else "whole" if text.startswith("{") and text.endswith("}\n") else text


def compiled(folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "faults.so"
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def campaign(folder: Path, scenarios: Sequence[Scenario], step: int) -> tuple[Counter[str], list[Finding]]:
    """Run all faults at each `step`-th system call of each scenario.

    Returns:
        How many runs there were by scenario, and what was found.
    """
    library = compiled(folder)
    runs: Counter[str] = Counter()
    findings: list[Finding] = []
    for scenario in scenarios:
        bench = Bench(scenario, folder / scenario.name, library)
        for number, fault in enumerate(FAULTS):
            for at in range(number % step, bench.calls, step):
                runs[scenario.name] += 1
                findings += (Finding(scenario.name, fault.name, at, wrong) for wrong in bench.wrong(at, fault))
    return runs, findings


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--step", type=int, default=1, help="take each N-th system call only")
    given = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if not given.only or scenario.name in given.only]
    with tempfile.TemporaryDirectory() as folder:
        runs, findings = campaign(Path(folder), scenarios, given.step)
    for finding in findings:
        print(f"{finding.scenario}, {finding.fault} at call {finding.at}: {finding.wrong}")
    print("| scenario | runs | wrong |\n|---|---|---|")
    for name, count in runs.items():
        print(f"| {name} | {count} | {len({(f.fault, f.at) for f in findings if f.scenario == name})} |")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
