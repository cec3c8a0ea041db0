"""Pruning: how much a weight matters, and which weights to set to zero."""
