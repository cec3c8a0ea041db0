"""Everything that touches onnxruntime, onnx's native code or onnxsim, in child processes with limits.

It knows no pass and no recipe.
"""
