"""Everything that touches onnxruntime, onnx's native code or onnxsim, in child processes with limits."""
