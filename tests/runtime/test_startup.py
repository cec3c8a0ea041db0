"""What is not imported, and what starts early."""

import signal
import subprocess
import sys

from modelopt.runtime.processes import ChildPool
from modelopt.runtime.worker import Worker


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_engine_does_not_import_sympy() -> None:
    code = "import modelopt.engine.optimize, sys; print('sympy.core' in sys.modules)"
    assert _python(code) == "False"


def test_sympy_is_there_when_it_is_used() -> None:
    code = (
        "import modelopt.engine.optimize, onnx_ir as ir\n"
        "print(ir.SymbolicDim('max(N, 3)').evaluate({'N': 5}), ir.SymbolicDim('N') + 1)\n"
        "import sympy.core, sympy\n"
        "from sympy import Symbol\n"
        "print(Symbol('x') + 1, type(sympy).__name__)"
    )
    assert _python(code) == "5 N + 1\nx + 1 module"


def test_a_sympy_that_is_imported_already_stays() -> None:
    assert _python("import sympy, sys, modelopt.engine.optimize; print(sys.modules['sympy'] is sympy)") == "True"


def test_a_child_that_was_started_ahead_is_used() -> None:
    with ChildPool() as children:
        waiting = children.start("onnxruntime").process.pid
        with Worker(children=children) as worker:
            assert worker.pid == waiting
        with Worker(children=children) as another:
            assert another.pid != waiting


def test_a_child_that_nobody_takes_ends_with_its_pool() -> None:
    with ChildPool() as children:
        child = children.start("onnx")
        assert child.process.poll() is None
    assert child.process.returncode == -signal.SIGKILL
    assert child.stderr.closed


def test_fold_starts_without_the_searches_and_the_passes_of_quantization() -> None:
    code = (
        "import modelopt.commands.fold, sys\n"
        "print([name for name in sys.modules if name.startswith(('modelopt.search.q', 'modelopt.passes.quantize'))])"
    )
    assert _python(code) == "[]"
