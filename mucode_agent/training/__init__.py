"""Training data from traces of solves, and training on it."""
