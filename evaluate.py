"""Scores a network: python evaluate.py --workdir=runs/eddsrn [--dataset=Set14=DIR]."""

from eddsrn_jax.commands.evaluate import run

if __name__ == "__main__":
    run()
