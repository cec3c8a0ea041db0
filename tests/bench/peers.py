"""The environment of the tools that we are compared with: theirs alone, made by the scripts that need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "peers"
PYTHON = FOLDER / "bin" / "python"

_PACKAGES = ("onnxruntime", "onnx", "onnxsim==0.8.1", "onnxslim", "nncf")


def install() -> None:
    """Make the environment once; it is made anew when the list of packages changes."""
    ready = FOLDER / "ready.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == " ".join(_PACKAGES):
        return
    subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
    subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", *_PACKAGES], check=True)
    ready.write_text(" ".join(_PACKAGES), encoding="utf-8")
