"""ED-SRN, the paper's ablation: ED-DSRN without its deblurring head and loss.

The paper's numbers, luminance on Set14: 24.8101 dB / 0.6426. Not measured here.

    python train.py --config=configs/edsrn.py --workdir=runs/edsrn
"""

import ml_collections

from configs import eddsrn


def get_config() -> ml_collections.ConfigDict:
    """The paper's recipe without deblurring."""
    config = eddsrn.get_config()
    config.name = "ED-SRN"
    config.model.deblur_features = 0
    return config
