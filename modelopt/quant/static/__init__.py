"""int8 with ranges from calibration: which nodes, which types, and the QuantizeLinear and DequantizeLinear around them.

It runs no model: ranges come from `modelopt.calibration`.
"""
