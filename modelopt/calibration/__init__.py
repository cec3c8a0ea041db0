"""What calibration counts: streaming histograms that merge, the cache of them, and tensors made outputs to be seen.

It decides nothing about int8: which range is worth a scale is for `modelopt.quant`.
"""
