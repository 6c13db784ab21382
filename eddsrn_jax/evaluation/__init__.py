"""Scores of networks and of other methods, as tables, files and figures."""
