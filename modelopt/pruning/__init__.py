"""Pruning: which weights become zero, which channels go and what shrinks with them, repair without training.

It measures no accuracy.
"""
