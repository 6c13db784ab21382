"""ED-SRN, the paper's ablation: ED-DSRN without its deblurring head and loss.

The paper's numbers: 24.8101 dB / 0.6426, luminance on Set14. Not measured here.

    python train.py --config=configs/edsrn.py       # or configs/edsrn.py:lite
"""

import ml_collections

from configs.sizes import of_size


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns ED-DSRN's recipe at a size, "full" or "lite", without deblurring."""
    config = of_size(size)
    config.name = config.name.replace("ED-DSRN", "ED-SRN")
    config.model.deblur_features = 0
    return config
