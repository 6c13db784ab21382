"""SRResNet, trained on photos without blur.

Ledig et al., CVPR 2017: 16 residual blocks of 64 channels, mean squared error. Differs:
the crops, batches and steps are those of ED-DSRN. ED-DSRN's paper reports 21.7681 dB for
it on blurred Set14.

    python train.py --config=configs/srresnet.py       # or configs/srresnet.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    config = recipe(size, "SRResNet", blurred=False)
    config.network = "SRResNet"
    config.model.features, config.model.num_blocks = {
        "full": (64, 16),
        "lite": (24, 8),
    }[size]
    return config.lock()
