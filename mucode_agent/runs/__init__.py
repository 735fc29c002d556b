"""Runs over many problems: settings, worker, directory and labels. Evaluation and training build on it."""
