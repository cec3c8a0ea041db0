"""The words that every room shares: errors, what a pass says of itself, targets, signatures, tables of text.

It imports no other room, and knows neither files nor onnxruntime.
"""
