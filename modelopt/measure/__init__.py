"""Measuring models: latency, accuracy, closeness of outputs, each with its uncertainty."""
