"""Classical methods, which need no training."""
