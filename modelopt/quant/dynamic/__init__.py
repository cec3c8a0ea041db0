"""int8 with activation ranges that are measured at every run: products, LSTM, attention and embedding tables.

It needs no calibration data, and reads none.
"""
