"""modelopt optimizes ONNX models and proves it."""

from modelopt import later_sympy

__version__ = "0.1.0"

later_sympy.install()
