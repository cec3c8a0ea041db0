"""Runs the command as a user does: another process, its exit code, its two streams, the files it leaves."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests import report_documents
from tests.forks import client
from tests.paths import SAMPLE_MODELS

COMMAND = Path(sys.executable).with_name("modelopt")

PATIENCE = int(os.environ.get("MODELOPT_TEST_PATIENCE", "1"))
"""How many times as long as on this machine by itself a command may take: an emulated one is slow."""

_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
"""How variables begin that an interpreter reads at its start."""

Argument = str | Path


def sample(name: str) -> Path:
    """A model that the repository ships."""
    return SAMPLE_MODELS / name / "model.onnx"


def calibration(name: str) -> Path:
    return SAMPLE_MODELS / name / "calib.npz"


def evaluation(name: str) -> Path:
    return SAMPLE_MODELS / name / "eval.npz"


MLP, CNN, EARLY_EXIT = (sample(name) for name in ("digits_mlp", "digits_cnn", "digits_earlyexit"))
CALIB, EVAL = calibration("digits_mlp"), evaluation("digits_mlp")
CNN_CALIB, CNN_EVAL = calibration("digits_cnn"), evaluation("digits_cnn")
QUICK = ("--no-bench", "--no-verify")
"""Nothing is run and nothing is timed: for tests of what comes before that."""
FAST = ("--budget", "0.2", "--warmup", "0", "--rounds", "2")
"""Models are timed for as short as can be."""


@dataclass(frozen=True)
class Ran:
    """What a run of the command left behind.

    Attributes:
        code: The exit code.
        out: Standard output.
        err: Standard error.
        created: Files and folders that are new in the working directory, which is HOME too.
    """

    code: int
    out: bytes
    err: str
    created: frozenset[str]

    def succeeded(self) -> Ran:
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self

    def failed(self, code: int, *words: str, created: Sequence[str] = ()) -> Ran:
        """One error line, no traceback, nothing on stdout (with ``--json`` the error), no file but `created`."""
        assert self.code == code, self.err
        assert self.out == b"" or report_documents.is_error(self.out, code), self.out
        lines = self.err.splitlines()
        assert sum(line.startswith("modelopt: error: ") for line in lines) == 1, self.err
        assert "Traceback" not in self.err
        assert all(character.isprintable() for line in lines for character in line), repr(self.err)
        for word in words:
            assert word in self.err, self.err
        assert self.created == set(created)
        return self

    def refused(self, code: int, *words: str) -> Ran:
        """Failed before anything was measured: the error with its note and its hint is all there is to read."""
        self.failed(code, *words)
        starts = [line.partition(": ")[0] for line in self.err.splitlines()]
        assert starts in (["modelopt", *rest] for rest in ([], ["note"], ["hint"], ["note", "hint"])), self.err
        return self


def environment(home: Path, **extra: str) -> dict[str, str]:
    """As good as empty: HOME is `home`."""
    return {"PATH": f"{COMMAND.parent}:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", **extra}


def modelopt(
    *arguments: Argument,
    cwd: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    largest_file: int | None = None,
) -> Ran:
    """Run ``modelopt ARGUMENTS`` in `cwd`, with `cwd` as HOME.

    The process is a fork of one that has imported everything (see `tests.forks`), which takes a tenth of the time of
    `installed`. Where `env` has a variable that the interpreter reads at its start, it is the installed command.

    Args:
        arguments: Of the command.
        cwd: The working directory.
        stdin: What it reads.
        env: More environment variables.
        largest_file: The disk is full once a file holds so many bytes.
    """
    if sys.platform != "linux" or any(name.startswith(_AT_START) for name in env or {}):
        return installed(*arguments, cwd=cwd, stdin=stdin, env=env, largest_file=largest_file)
    before = listing(cwd)
    with tempfile.TemporaryFile() as err:
        fork = client.start(
            arguments=[COMMAND, *arguments],
            cwd=cwd,
            environment=environment(cwd, **(env or {})),
            stderr=err.fileno(),
            largest_file=largest_file,
        )
        out = fork.communicate(stdin, 200 * PATIENCE)
        err.seek(0)
        said = err.read().decode()
    code = fork.wait()
    report_documents.check_written(arguments, cwd, code, out)
    return Ran(code, out, said, frozenset(listing(cwd) - before))


def installed(
    *arguments: Argument,
    cwd: Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    largest_file: int | None = None,
) -> Ran:
    """Like `modelopt`, as a user does it: start the installed command."""
    before = listing(cwd)
    done = subprocess.run(
        [COMMAND, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env=environment(cwd, **(env or {})),
        preexec_fn=_limit_files(largest_file) if largest_file else None,
        timeout=200 * PATIENCE,
        check=False,
    )
    report_documents.check_written(arguments, cwd, done.returncode, done.stdout)
    return Ran(done.returncode, done.stdout, done.stderr.decode(), frozenset(listing(cwd) - before))


def shell(script: str, cwd: Path) -> Ran:
    """Run a script in bash with pipefail."""
    before = listing(cwd)
    done = subprocess.run(
        ["/bin/bash", "-e", "-o", "pipefail", "-c", script],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(cwd),
        timeout=200 * PATIENCE,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr.decode(), frozenset(listing(cwd) - before))


def start(*arguments: Argument, cwd: Path, **extra: str) -> subprocess.Popen[bytes]:
    """Start the command and do not wait for it."""
    return subprocess.Popen(
        [COMMAND, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cwd, **extra),
        bufsize=0,
    )


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _limit_files(n_bytes: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


# Models


def value(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a model of opset 17."""
    stored = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def save_endless(path: Path) -> Path:
    """Write a model whose Loop counts to 2^60."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c_out"]), helper.make_node("Sin", ["v"], ["v_out"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1])],
        [value("c_out", [], TensorProto.BOOL), value("v_out", [1])],
    )
    nodes = [helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)]
    weights = {"trips": np.array(2**60, np.int64), "go": np.ones((), bool)}
    return save(path, nodes, [value("x", [1])], [value("y", [1])], weights)


def written(path: Path, content: bytes) -> Path:
    """A new file with this content."""
    path.write_bytes(content)
    return path


def op_types(path: Path) -> set[str]:
    """The operators of the model at `path`."""
    return {node.op_type for node in onnx.load(path).graph.node}
