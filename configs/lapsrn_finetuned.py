"""LapSRN, trained without blur first and fine-tuned on blurred photos.

ED-DSRN's paper reports 22.0166 dB for it on blurred Set14.

    python train.py --config=configs/lapsrn.py
    python train.py --config=configs/lapsrn_finetuned.py

Either both commands take `:lite` after the config's name, or neither does.
"""

import ml_collections

from configs import lapsrn
from configs.sizes import finetuned


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size, "full" or "lite"."""
    weights = {"full": "runs/lapsrn", "lite": "runs/lapsrn-lite"}[size]
    return finetuned(lapsrn.get_config(size), weights)
