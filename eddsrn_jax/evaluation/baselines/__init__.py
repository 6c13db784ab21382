"""Baseline methods, and methods that are composed of others."""
