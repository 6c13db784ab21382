"""ED-DSRN in JAX: joint deblurring and x4 super-resolution of photographs."""

__version__ = "0.1.0"
