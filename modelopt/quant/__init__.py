"""Quantization: the numbers, the ranges, the places, and what is written there."""
