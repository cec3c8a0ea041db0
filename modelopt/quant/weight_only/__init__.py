"""Weights in 4 or 8 bits that are expanded while a model runs or loads.

It never quantizes an activation in the graph.
"""
