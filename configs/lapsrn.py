"""LapSRN, which has not seen blurred photographs.

Lai et al., CVPR 2017: two levels of ten 64-wide layers, the Charbonnier loss at each.
Differs: the optimiser, crops, batches and steps of ED-DSRN; without biases. The paper's
numbers: 21.7878 dB on blurred Set14.

    python train.py --config=configs/lapsrn.py       # or configs/lapsrn.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    config = recipe(size, "LapSRN", blurred=False)
    config.network = "LapSRN"
    config.model.features, config.model.num_layers = {"full": (64, 10), "lite": (24, 5)}[
        size
    ]
    config.loss.sr = "charbonnier"
    return config.lock()
