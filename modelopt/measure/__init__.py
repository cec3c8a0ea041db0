"""Measures latency, accuracy and the difference of outputs, each with its uncertainty.

It changes no model and judges no gate.
"""
