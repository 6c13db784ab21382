"""SRResNet, which has not seen blurred photographs.

Ledig et al., CVPR 2017: 16 residual blocks of 64, mean squared error. Differs: the crops,
batches and steps of ED-DSRN. The paper's numbers: 21.7681 dB on blurred Set14.

    python train.py --config=configs/srresnet.py       # or configs/srresnet.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    config = recipe(size, "SRResNet", blurred=False)
    config.network = "SRResNet"
    config.model.features, config.model.num_blocks = {
        "full": (64, 16),
        "lite": (24, 8),
    }[size]
    return config.lock()
