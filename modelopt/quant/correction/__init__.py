"""What makes an int8 or int4 model more accurate: rounding, bias correction, equalization, and where sums saturate.

It chooses no nodes: it corrects what the other parts of `modelopt.quant` have planned.
"""
