"""DeblurCNN, which takes the blur out and leaves the size as it is.

Hradis et al., BMVC 2015: fifteen layers, mean squared error. Differs: the optimiser,
crops, batches and steps of ED-DSRN. In the paper it comes before networks that
super-resolve.

    python train.py --config=configs/deblur_cnn.py       # or configs/deblur_cnn.py:lite
"""

import ml_collections

from configs.sizes import recipe
from eddsrn_jax.models.deblur_cnn import L15


def get_config(size: str = "full") -> ml_collections.ConfigDict:
    """The recipe of a size, "full" or "lite": a quarter as wide."""
    config = recipe(size, "DeblurCNN", blurred=True)
    config.network = "DeblurCNN"
    share = {"full": 1, "lite": 4}[size]
    config.model.layers = (*((k, n // share) for k, n in L15[:-1]), L15[-1])
    config.loss.deblurred = "mse"
    return config.lock()
