"""Restores photos: python restore.py [flags] FILE or FOLDER ..."""

from eddsrn_jax.commands.signals import interruptible

if __name__ == "__main__":
    with interruptible():
        from eddsrn_jax.commands.restore import run
    run()
