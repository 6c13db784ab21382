"""LapSRN, trained on photos without blur.

Lai et al., CVPR 2017: two levels of ten layers with 64 channels, the Charbonnier loss at
each level. Differs: the optimizer, crops, batches and steps are those of ED-DSRN, and the
layers have no biases. ED-DSRN's paper reports 21.7878 dB for it on blurred Set14.

    python train.py --config=configs/lapsrn.py       # or configs/lapsrn.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    config = recipe(size, "LapSRN", blurred=False)
    config.network = "LapSRN"
    config.model.features, config.model.num_layers = {"full": (64, 10), "lite": (24, 5)}[
        size
    ]
    config.loss.sr = "charbonnier"
    return config.lock()
