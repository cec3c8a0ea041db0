"""The arithmetic of quantization: grids, ranges, rounding, errors, and what kernels cost.

It rewrites no graph.
"""
