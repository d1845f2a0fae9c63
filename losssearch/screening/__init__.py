"""Judges that need no training, cheapest first."""
