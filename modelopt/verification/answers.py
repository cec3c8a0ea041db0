"""Feeds together with the outputs of the original."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from modelopt.core.errors import Refused
from modelopt.runtime.worker_session import Session
from modelopt.verification.feeds import Feed


@dataclass
class Answers:
    """The feeds that the original runs on, in the order in which they were tried, and its outputs."""

    session: Session
    feeds: list[Feed] = field(default_factory=list)
    outputs: list[list[np.ndarray]] = field(default_factory=list)
    why_not: str | None = None

    def take(self, feed: Feed) -> bool:
        """Run the original; a feed that it does not run on is left out."""
        try:
            outputs = self.session.run(feed.arrays)
        except Refused as refusal:
            self.why_not = self.why_not or refusal.note
            return False
        self.feeds.append(feed)
        self.outputs.append(outputs)
        return True
