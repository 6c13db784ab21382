"""SCGAN, trained against a discriminator on blurred photographs.

Xu et al., ICCV 2017. Differs: photographs, where its paper has faces and text; layers,
weights of the losses and the optimiser are ours, for its paper could not be read.
ED-DSRN's paper has 21.9028 dB on Set14 for it.

    python train.py --config=configs/scgan.py       # or configs/scgan.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    config = recipe(size, "SCGAN", blurred=True)
    config.network = "SCGAN"
    model, judge = config.model, config.adversarial
    model.features, model.num_layers, judge.features, judge.num_layers = {
        "full": (64, 10, 64, 4),
        "lite": (12, 4, 16, 4),
    }[size]
    # Of SRGAN; features, three times the squared error of pixels, at a third of that.
    judge.weight, judge.feature_weight = 1e-3, 0.1
    return config.lock()
