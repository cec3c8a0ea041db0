"""Corrections of int8 models: rounding, bias correction, equalization, SmoothQuant, and a report of saturating sums.

It chooses no nodes: it corrects what the other parts of `modelopt.quant` have planned.
"""
