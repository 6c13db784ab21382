"""SRResNet, continued on blurred photographs.

The paper's numbers: 22.9713 dB on Set14.

    python train.py --config=configs/srresnet.py
    python train.py --config=configs/srresnet_finetuned.py       # or both with :lite
"""

import ml_collections

from configs import srresnet
from configs.sizes import finetuned


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    weights = {"full": "runs/srresnet", "lite": "runs/srresnet-lite"}[size]
    return finetuned(srresnet.get_config(size), weights)
