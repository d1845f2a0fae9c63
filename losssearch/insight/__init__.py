"""What does a loss want of a model? Curves, ratios, weights, and sentences that each rest on a number."""
