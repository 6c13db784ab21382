"""Array functions in JAX: resizing, degradation, colour. They import no other folder."""
