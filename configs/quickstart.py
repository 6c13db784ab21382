"""The lite network for a few minutes on two CPU cores, on photos from scikit-image.

The photos are part of scikit-image's package, so nothing is downloaded.

    python train.py --config=configs/quickstart.py
"""

import ml_collections

from configs import eddsrn_lite


def get_config() -> ml_collections.ConfigDict:
    """Returns the lite recipe with fewer steps, on the bundled photos."""
    config = eddsrn_lite.get_config()
    config.data.source = "bundled"
    config.data.crops_per_image = 200
    config.total_steps = 700
    config.log_every_steps = 50
    config.validation.every_steps = 350
    return config
