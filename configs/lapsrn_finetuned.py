"""LapSRN, continued on blurred photographs.

The paper's numbers: 22.0166 dB on Set14.

    python train.py --config=configs/lapsrn.py
    python train.py --config=configs/lapsrn_finetuned.py       # or both with :lite
"""

import ml_collections

from configs import lapsrn
from configs.sizes import finetuned


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite"."""
    weights = {"full": "runs/lapsrn", "lite": "runs/lapsrn-lite"}[size]
    return finetuned(lapsrn.get_config(size), weights)
