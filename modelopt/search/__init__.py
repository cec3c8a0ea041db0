"""Recipes that are tried and measured before one of them is run: which passes pay here, and at what accuracy."""
