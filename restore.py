"""Restores photos: python restore.py [flags] FILE or FOLDER ..."""

from eddsrn_jax.commands.restore import run

if __name__ == "__main__":
    run()
