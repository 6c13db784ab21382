"""Checkpoints of runs, and weights in files."""
