"""Measures models: latency, accuracy, and how close outputs are, each with its uncertainty.

It changes no model, and judges no gate.
"""
