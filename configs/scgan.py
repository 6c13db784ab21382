"""SCGAN, trained against a discriminator on blurred photos.

Xu et al., ICCV 2017. Differs: it trains on photos, where its paper has faces and text.
The layers, loss weights and optimizer are ours, because its paper could not be read.
ED-DSRN's paper reports 21.9028 dB for it on blurred Set14.

    python train.py --config=configs/scgan.py       # or configs/scgan.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    config = recipe(size, "SCGAN", blurred=True)
    config.network = "SCGAN"
    model, judge = config.model, config.adversarial
    model.features, model.num_layers, judge.features, judge.num_layers = {
        "full": (64, 10, 64, 4),
        "lite": (12, 4, 16, 4),
    }[size]
    # The adversarial weight is SRGAN's. The feature loss is about three times the pixels'
    # squared error; at this weight it comes to a third of that error.
    judge.weight, judge.feature_weight = 1e-3, 0.1
    return config.lock()
