"""VDSR, which has not seen blurred photographs.

Kim et al., CVPR 2016: 20 layers of 64 on the enlarged luminance, mean squared error,
clipped gradients. Differs: the optimiser, crops, batches and steps of ED-DSRN; without
biases. The paper's numbers: 21.7877 dB on blurred Set14.

    python train.py --config=configs/vdsr.py       # or configs/vdsr.py:lite
"""

import ml_collections

from configs.sizes import recipe


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    config = recipe(size, "VDSR", blurred=False)
    config.network = "VDSR"
    config.model.features, config.model.num_layers = {"full": (64, 20), "lite": (16, 8)}[
        size
    ]
    config.optimizer.clip_norm = 1.0
    return config.lock()
