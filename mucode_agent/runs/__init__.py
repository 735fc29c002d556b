"""Runs over many problems: their settings, worker, directory and labels. Evaluation and training stand on it."""
