"""Calibration: streaming histograms of activations, a cache of them, and values in subgraphs made outputs to observe.

It decides nothing about int8: `modelopt.quant` chooses ranges and scales.
"""
