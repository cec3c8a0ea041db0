"""Other machines than the one at hand: what they report of themselves, and ways to run tests on them here."""
