"""Ranges of activations: the collectors that one pass over the samples fills, and what they hold.

They live outside this package because the child process fills them: observed activations never cross the pipe.
"""

from __future__ import annotations

from modelopt.collectors import BINS, Collector, Histogram

__all__ = ["BINS", "Collector", "Histogram"]
