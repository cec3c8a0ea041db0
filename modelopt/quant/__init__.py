"""Quantization: the numbers, the ranges, the places, and what is written there.

It judges no accuracy, and never writes a file.
"""
