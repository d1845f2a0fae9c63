"""Small training tasks with a metric: they judge a loss by training with it."""
