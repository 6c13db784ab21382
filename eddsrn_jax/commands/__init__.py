"""The commands: one module each, which defines the flags and calls the package."""
