"""What several passes recognise in a graph: attention, normalization, convolutions with their constants and so on.

A pattern only finds; passes decide what to do with it. No pattern imports a pass.
"""
