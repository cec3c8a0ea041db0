"""Checks that exact passes are exact: runs the model before and after them on feeds that reach the graph.

It never changes a model and never judges accuracy: lossy passes are measured, not verified.
"""
