"""SRResNet, trained without blur first and fine-tuned on blurred photos.

ED-DSRN's paper reports 22.9713 dB for it on blurred Set14.

    python train.py --config=configs/srresnet.py
    python train.py --config=configs/srresnet_finetuned.py

Either both commands take `:lite` after the config's name, or neither does.
"""

import ml_collections

from configs import srresnet
from configs.sizes import finetuned


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    weights = {"full": "runs/srresnet", "lite": "runs/srresnet-lite"}[size]
    return finetuned(srresnet.get_config(size), weights)
