"""Environments of the tools that we are compared with, made by the scripts that need them; each group has its own.

What is installed beside a tool changes how long it takes to start.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_PACKAGES = {
    "simplifiers": ("onnxsim==0.8.1", "onnxslim", "onnxruntime"),
    "pruners": ("torch", "torchvision", "torch-pruning==1.6.1", "onnxsim==0.8.1", "onnx", "onnxscript", "onnxruntime"),
    "quantizers": ("onnxruntime", "onnx", "nncf", "sympy"),
    "converters": (
        "scikit-learn",
        "pandas",
        "skl2onnx",
        "onnxmltools",
        "onnxconverter-common",
        "lightgbm",
        "xgboost-cpu",
        "setuptools",
    ),
}


def install(group: str) -> Path:
    """The ``bin`` folder of a group's environment, which is made once, and anew when its list of packages changes."""
    folder = ROOT / "build" / f"peers-{group}"
    packages = _PACKAGES[group]
    ready = folder / "ready.txt"
    if not ready.exists() or ready.read_text(encoding="utf-8") != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages], check=True)
        ready.write_text(" ".join(packages), encoding="utf-8")
    return folder / "bin"
