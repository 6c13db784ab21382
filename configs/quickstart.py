"""A few minutes on two CPU cores: the lite network on photographs of scikit-image.

python train.py --config=configs/quickstart.py
"""

import ml_collections

from configs import eddsrn_lite


def get_config() -> ml_collections.ConfigDict:
    """The lite recipe, shorter still, on the bundled photographs."""
    config = eddsrn_lite.get_config()
    config.data.source = "bundled"
    config.data.crops_per_image = 200
    config.total_steps = 700
    config.log_every_steps = 50
    config.validation.every_steps = 350
    return config
