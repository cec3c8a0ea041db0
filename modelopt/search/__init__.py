"""Tries recipes and measures them before one is run: which passes pay on this machine, at what loss of accuracy.

It applies no pass itself: each candidate goes through `modelopt.engine`.
"""
