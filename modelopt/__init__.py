"""modelopt optimizes ONNX models and proves it."""

__version__ = "0.1.0"
