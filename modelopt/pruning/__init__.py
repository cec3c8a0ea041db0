"""Pruning: which weights become zero.

It measures no accuracy.
"""
