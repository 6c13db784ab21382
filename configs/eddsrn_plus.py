"""The paper's network by a recipe of today, for GPUs. Nobody has run it to its end yet.

Departs from the paper where that paid for the lite network, at equal time (the model card
has the figures): warm-up and cosine decay, clipped gradients, validation of a moving
average of the weights; bfloat16, which loses less than 0.01 dB.

    python train.py --config=configs/eddsrn_plus.py --config.data.source=folder:DIR
"""

import ml_collections

from configs import eddsrn


def get_config() -> ml_collections.ConfigDict:
    """The paper's network, other steps."""
    config = eddsrn.get_config()
    config.name = "ED-DSRN+"
    config.ema_decay = 0.999
    config.model.dtype = "bfloat16"
    config.data.pipeline = "resident"
    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 1.0
    return config
