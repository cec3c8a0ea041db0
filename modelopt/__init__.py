"""modelopt optimizes ONNX models and proves it."""

from modelopt.core import lazy_sympy

__version__ = "0.1.0"

lazy_sympy.install()
