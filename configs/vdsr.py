"""VDSR, trained on photos without blur.

Kim et al., CVPR 2016: 20 layers of 64 channels on the enlarged luminance, mean squared
error, clipped gradients. Differs: the optimizer, crops, batches and steps are those of
ED-DSRN, and the layers have no biases. ED-DSRN's paper reports 21.7877 dB for it on
blurred Set14.

    python train.py --config=configs/vdsr.py       # or configs/vdsr.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    config = recipe(size, "VDSR", blurred=False)
    config.network = "VDSR"
    config.model.features, config.model.num_layers = {"full": (64, 20), "lite": (16, 8)}[
        size
    ]
    config.optimizer.clip_norm = 1.0
    return config.lock()
