"""ED-DSRN at half size for photos as people have them, not only for the paper's blurs.

Departs from the paper: blurs from none to sigma 3, some of them stronger in one
direction; sensor noise up to 12 grey levels; JPEG compression of quality 30 to 100. The
network is that of configs/eddsrn_half.py with a bank of filters for this range. A quarter
of the training crops have neither noise nor JPEG blocks.

    python train.py --config=configs/eddsrn_photo.py --config.data.source=folder:DIR

With `:large` after its name it is a recipe for a GPU.
"""

import ml_collections

from configs import eddsrn_half


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """The recipe of eddsrn_half with another bank and other degradations.

    Args:
        size: "small", for CPUs, or "large".

    Raises:
        ValueError: another size.
    """
    config = eddsrn_half.get_config(size)
    config.unlock()
    config.name = config.name.replace("half-size", "photo")
    config.model.front_end = "photo-1-3a2e862a"
    config.degradation.sigma_range = (0.0, 3.0)
    config.degradation.anisotropic_share = 0.3
    config.degradation.noise_share = 0.5
    config.degradation.max_noise = 12.0
    config.degradation.jpeg_share = 0.5
    config.degradation.jpeg_quality = (30, 100)
    config.validation.sigmas = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    config.validation.degradation = "photo"
    return config.lock()
