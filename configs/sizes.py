"""Common parts of the recipes that come in two sizes, "full" and "lite".

`--config=configs/srresnet.py:lite` chooses the size; "full" is the default. At "full"
size a network is as large as in its own paper. At "lite" size it costs about as much as
ED-DSRN lite, 0.2 to 0.3 million multiply-accumulates for each pixel of the small image.
All lite networks can therefore be trained on CPUs, with the same crops.
"""

import ml_collections

from configs import eddsrn, eddsrn_lite

_RECIPES = {"full": eddsrn, "lite": eddsrn_lite}
# Blur range of super-resolution networks that, as in the paper, train on sharp photos.
_NO_BLUR = (0.0, 0.0)


def of_size(size: str) -> ml_collections.ConfigDict:
    """Returns ED-DSRN's recipe at a size; ValueError unless it is "full" or "lite"."""
    if size not in _RECIPES:
        raise ValueError(f"size {size!r}: expected one of {', '.join(_RECIPES)}")
    return _RECIPES[size].get_config()


def recipe(size: str, name: str, *, blurred: bool) -> ml_collections.ConfigDict:
    """Returns a recipe whose model section holds what all networks share.

    Args:
        size: "full" or "lite".
        name: name of the method in tables, without its size.
        blurred: whether training and validation photos are shrunk and blurred, as in the
            paper, or only shrunk.

    Raises:
        ValueError: unknown size.
    """
    config = of_size(size)
    config.unlock()
    config.name = name if size == "full" else f"{name} lite"
    config.model = ml_collections.ConfigDict(
        {"front_end": "", "dtype": config.model.dtype}
    )
    if not blurred:
        config.degradation.sigma_range = _NO_BLUR
        config.validation.sigmas = (0.0,)
    return config


def finetuned(
    config: ml_collections.ConfigDict, weights: str
) -> ml_collections.ConfigDict:
    """Returns a recipe that continues training a network on blurred photos.

    Args:
        config: recipe that trained the network without blur; changed in place.
        weights: workdir or .safetensors file of that network.
    """
    blurred = eddsrn.get_config()
    config.unlock()
    config.name = f"{config.name}, fine-tuned"
    config.init_from = weights
    config.degradation.sigma_range = blurred.degradation.sigma_range
    config.validation.sigmas = blurred.validation.sigmas
    return config.lock()
