"""Pruning: how much a weight matters, and which weights become zero.

It measures no accuracy.
"""
