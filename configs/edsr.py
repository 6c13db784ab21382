"""EDSR, trained on photos without blur.

Lim et al., CVPR Workshops 2017: 32 residual blocks of 256 channels, mean absolute error.
Differs: the crops, batches and steps are those of ED-DSRN. ED-DSRN's paper reports
21.7933 dB for it on blurred Set14.

    python train.py --config=configs/edsr.py

`configs/edsr.py:baseline` has 16 blocks of 64 channels. `configs/edsr.py:lite` has 12
blocks of 24.
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full", "baseline" or "lite"."""
    name = "EDSR baseline" if size == "baseline" else "EDSR"
    config = recipe("full" if size == "baseline" else size, name, blurred=False)
    config.network = "EDSR"
    model = config.model
    model.features, model.num_blocks, model.residual_scale = {
        "full": (256, 32, 0.1),
        "baseline": (64, 16, 1.0),
        "lite": (24, 12, 1.0),
    }[size]
    config.loss.sr = "l1"
    return config.lock()
