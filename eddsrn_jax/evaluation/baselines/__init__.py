"""Methods to compare networks with, and methods made of others."""
