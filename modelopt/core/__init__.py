"""The types that every room shares: errors, what a pass reports, targets, signatures, tables of text.

It imports no other room, and knows neither files nor onnxruntime.
"""
