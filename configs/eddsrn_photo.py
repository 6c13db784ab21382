"""ED-DSRN at half size for real photos, beyond the paper's blurs.

Departs from the paper. The training crops have blurs of sigma 0 to 3 pixels of the small
image, some of them stronger in one direction. Three in ten have no blur at all. A third
of the crops has sensor noise of up to 12 grey levels, a third has JPEG compression of
quality 30 to 100, and four in ten have neither. The network is that of
configs/eddsrn_half.py with a bank of filters for this range.

    python train.py --config=configs/eddsrn_photo.py --config.data.source=folder:DIR

`configs/eddsrn_photo.py:large` is a recipe for a GPU.
"""

import ml_collections

from configs import eddsrn_half


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns the recipe of eddsrn_half with another network and other degradations.

    Args:
        size: "small", for CPUs, or "large", for GPUs.

    Raises:
        ValueError: unknown size.
    """
    config = eddsrn_half.get_config(size)
    config.unlock()
    config.name = config.name.replace("half-size", "photo")
    config.model.front_end = "photo-1-3a2e862a"
    config.degradation.sigma_range = (0.0, 3.0)
    config.degradation.sharp_share = 0.3
    config.degradation.anisotropic_share = 0.3
    config.degradation.noise_share = 0.35
    config.degradation.max_noise = 12.0
    config.degradation.jpeg_share = 0.35
    config.degradation.jpeg_quality = (30, 100)
    config.validation.sigmas = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    config.validation.degradation = "photo"
    return config.lock()
