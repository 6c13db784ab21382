"""Trains a network: python train.py --config=configs/eddsrn.py --workdir=runs/eddsrn."""

from eddsrn_jax.commands.train import run

if __name__ == "__main__":
    run()
