"""Checks that exact passes are exact: runs the model before and after them on the same feeds and compares the outputs.

It never changes a model and never judges accuracy: lossy passes are measured, not verified.
"""
