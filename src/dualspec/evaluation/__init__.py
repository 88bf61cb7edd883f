"""Evaluation: how well generated sound keeps its direction and its kind."""
