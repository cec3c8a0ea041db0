"""Where the repository's files are, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_MODELS = ROOT / "sample_models"
LIGHT_MODELS = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx"))
"""Models of the onnx package: graphs of real networks without their weights."""
