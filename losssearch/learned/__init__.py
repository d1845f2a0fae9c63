"""Losses that are learned: networks in the place of formulas."""
