"""Half precision: which nodes can compute in it, which ranges fit, and how the types are written into a model.

It holds no integers.
"""
