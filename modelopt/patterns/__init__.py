"""What several passes recognise in a graph: attention, normalization, convolutions with their constants and so on.

It finds and never decides: no pattern imports a pass.
"""
