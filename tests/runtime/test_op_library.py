"""Custom operators: `--op-library`, and what is said of a model that needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from modelopt.core.errors import InputError
from modelopt.runtime import wording
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.wording import Operator
from modelopt.runtime.worker import Worker
from tests.command_line import MLP, QUICK, modelopt, value

pytestmark = pytest.mark.usefixtures("started_children")

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void *RegisterCustomOps(void *options, const void *api) {
    const char *path = getenv("SEEN_BY");
    FILE *file = path ? fopen(path, "a") : 0;
    (void)options; (void)api;
    if (file) { fprintf(file, "%d\\n", (int)getpid()); fclose(file); }
    return 0;
}
"""
"""A library that registers nothing, and writes down which process asked it."""

COMPILER = shutil.which("cc") or shutil.which("gcc")
WAY = "--no-verify --no-bench"
RECIPE = "version: 1\nsteps: [eliminate-identity]\n"


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A model with an operator that only a library could bring."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MyOp", ["h"], ["y"], domain="acme")]
    weight = helper.make_tensor("w", 1, [4, 4], np.ones(16, np.float32).tolist())
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 4])], [value("y", ["n", 4])], [weight])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString())
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "ops.c").write_text(SOURCE)
    done = subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-o", "ops.so", "ops.c"], cwd=folder, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("the C compiler makes no shared library here")
    return folder / "ops.so"


COMMANDS = (
    (("fold", "m.onnx"), WAY),
    (("fuse", "m.onnx"), WAY),
    (("prune", "m.onnx", "--sparsity", "0.5"), WAY),
    (("quantize", "m.onnx", "--mode", "weights"), WAY),
    (("run", "r.yaml", "m.onnx"), WAY),
    (("bench", "m.onnx"), None),
    (("compare", "m.onnx", "m.onnx"), None),
)


@pytest.mark.parametrize(("command", "way"), COMMANDS, ids=[command[0] for command, _ in COMMANDS])
def test_an_operator_that_nobody_has_is_one_line_and_the_flag(
    custom: Path, command: tuple[str, ...], way: str | None
) -> None:
    (custom.parent / "r.yaml").write_text(RECIPE)
    ran = modelopt(*command, cwd=custom.parent)
    ran.refused(3, "loading the model m.onnx failed", "it uses the operator 'MyOp' of the domain 'acme'")
    assert "ONNXRuntimeError" not in ran.err
    assert "hint: name the library that has it: --op-library FILE.so" in ran.err
    assert (WAY in ran.err) is (way is not None)


@pytest.mark.parametrize("command", [command for command, _ in COMMANDS], ids=lambda command: command[0])
def test_a_library_that_is_none_is_one_line(custom: Path, command: tuple[str, ...]) -> None:
    (custom.parent / "r.yaml").write_text(RECIPE)
    (custom.parent / "ops.so").write_text("no library")
    ran = modelopt(*command, "--op-library", "ops.so", cwd=custom.parent)
    ran.refused(2, "the operator library ", "ops.so cannot be loaded", "exports RegisterCustomOps")
    assert "ONNXRuntimeError" not in ran.err
    assert "Failed to" not in ran.err
    modelopt(*command, "--op-library", "nowhere.so", cwd=custom.parent).failed(2, "'nowhere.so' does not exist")


def test_a_library_is_loaded_in_child_processes_alone(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setenv("SEEN_BY", str(seen))
    limits = Limits(memory_bytes=2**32, seconds=100, op_libraries=(str(library), str(library)))
    with Worker(limits) as worker:
        worker.open(MLP, SessionSpec(threads=1, spin=False))
        assert seen.read_text().split() == [str(worker.pid)] * 2
        assert worker.pid != os.getpid()
    with Worker() as worker:
        worker.open(MLP, SessionSpec(threads=1, spin=False))
    assert len(seen.read_text().split()) == 2


def test_the_flag_reaches_the_sessions_of_a_command_and_no_recipe(library: Path, custom: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    flags = ("--op-library", library)
    ran = modelopt("fold", MLP, "-o", "x.onnx", "--no-bench", *flags, cwd=tmp_path, env={"SEEN_BY": str(seen)})
    ran.succeeded()
    assert seen.exists()
    shown = modelopt("fold", MLP, *flags, "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert "ops.so" not in shown
    (tmp_path / "r.yaml").write_text(f"{RECIPE}op-libraries: [{library}]\n")
    modelopt("run", "r.yaml", MLP, cwd=tmp_path).failed(2, "op-libraries", created=())
    ran = modelopt("fold", custom, *flags, cwd=tmp_path)
    ran.refused(3, f"which neither onnxruntime {_version()} nor {library} has")


def _version() -> str:
    from modelopt.runtime.installation import runtime_version

    return runtime_version()


def test_without_running_it_such_a_model_is_still_optimized(custom: Path) -> None:
    modelopt("fold", "m.onnx", *QUICK, cwd=custom.parent).succeeded()


def test_what_registers_nothing_is_an_error_of_the_child(tmp_path: Path) -> None:
    (tmp_path / "ops.so").write_text("no library")
    limits = Limits(memory_bytes=2**32, seconds=100, op_libraries=(str(tmp_path / "ops.so"),))
    with Worker(limits) as worker, pytest.raises(InputError, match="cannot be loaded"):
        worker.open(MLP, SessionSpec(threads=1, spin=False))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[E] : 1 : FAIL : Fatal error: acme:MyOp(-1) is not a registered function/op", Operator("MyOp", "acme")),
        ("1 : FAIL : Fatal error: a.b-c:My:Op(3) is not a registered function/op", Operator("Op", "a.b-c:My")),
        ("FAIL : Fatal error: ai.onnx:Gelu(-1) is not a registered function/op", Operator("Gelu", "")),
        (
            'In Node, ("n, x", Gelu, "", -1) : ("x": …) , Error No Op registered for Gelu with domain_version of 17',
            Operator("Gelu", "", "17"),
        ),
        ("INVALID_GRAPH : This is an invalid model. Type Error: Type 'tensor(float)' of x is invalid.", None),
    ],
)
def test_what_onnxruntime_says_of_an_unknown_operator(text: str, found: Operator | None) -> None:
    assert wording.missing_operator(text) == found


def test_an_operator_of_onnx_itself_needs_no_library(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"])], "g", [value("x", [4])], [value("y", [4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    ran = modelopt("bench", "m.onnx", cwd=tmp_path).refused(
        3, f"onnxruntime {_version()} has no operator 'Gelu' in opset 17"
    )
    assert "--op-library" not in ran.err
