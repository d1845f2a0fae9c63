"""Headline numbers, one command each; `python -m benchmarks` runs the short forms."""
