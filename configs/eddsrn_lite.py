"""A small ED-DSRN for CPUs and small GPUs: 1.9 M parameters, half an hour on two cores.

Measured on Set14 (luminance, border 4, mean of five sigmas): 24.07 dB / 0.6093 after 34
minutes on two cores of an AMD EPYC, 24.44 / 0.6269 after 24,000 steps. Bicubic
interpolation has 21.78 / 0.5303. Trained on 438 photos. The weights' MODEL_CARD.md lists
the other variants that were tried.

    python train.py --config=configs/eddsrn_lite.py --config.data.source=folder:DIR
"""

import ml_collections

from configs import eddsrn


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe of a narrow network with a short schedule."""
    config = eddsrn.get_config()
    config.name = "ED-DSRN lite"
    # Small batches of small crops give a CPU the most updates for the time.
    config.batch_size = 8
    config.data.hr_patch_size = 192
    config.total_steps = 6000

    config.model.features = (32, 64, 96, 128)
    config.model.num_pairs = 1
    # Narrow at x4, where width costs most: a blurred photo has little detail left there.
    config.model.sr_features = (32, 16, 8)
    config.model.deblur_features = 32

    config.optimizer.schedule = "warmup_cosine"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_norm = 1.0

    config.validation.every_steps = 1000
    config.validation.max_photos = 40
    return config
