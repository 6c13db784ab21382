"""DeblurCNN, a network that deblurs an image and keeps its size.

Hradis et al., BMVC 2015: fifteen layers, mean squared error. Differs: the optimizer,
crops, batches and steps are those of ED-DSRN. ED-DSRN's paper feeds its output to
super-resolution networks.

    python train.py --config=configs/deblur_cnn.py       # or configs/deblur_cnn.py:lite
"""

import ml_collections

from configs.sizes import recipe
from eddsrn_jax.models.deblur_cnn import L15


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """Returns the recipe at a size: "full", or "lite" with a quarter of the width."""
    config = recipe(size, "DeblurCNN", blurred=True)
    config.network = "DeblurCNN"
    share = {"full": 1, "lite": 4}[size]
    config.model.layers = (*((k, n // share) for k, n in L15[:-1]), L15[-1])
    config.loss.deblurred = "mse"
    return config.lock()
