"""What the configs of other systems begin with: `--config=configs/srresnet.py:lite`.

At "full" size a system is its paper's. "lite" costs about what ED-DSRN lite does, 0.2
to 0.3 million multiply-accumulates for each pixel of the small image, so that all systems
can be trained on CPUs, with the same crops.
"""

import ml_collections

from configs import eddsrn, eddsrn_lite

_RECIPES = {"full": eddsrn, "lite": eddsrn_lite}
# Networks that have not seen blurred photographs, which is what they are to be judged by.
_NO_BLUR = (0.0, 0.0)


def of_size(size: str) -> ml_collections.ConfigDict:
    """ED-DSRN's recipe at a size, "full" or "lite"; ValueError at another one."""
    if size not in _RECIPES:
        raise ValueError(f"size {size!r}: expected one of {', '.join(_RECIPES)}")
    return _RECIPES[size].get_config()


def recipe(size: str, name: str, *, blurred: bool) -> ml_collections.ConfigDict:
    """A recipe without a model.

    Args:
        size: "full" or "lite".
        name: of the system.
        blurred: whether it trains on blurred photographs, as the paper's do, or on ones
            that have only been shrunk.

    Raises:
        ValueError: another size.
    """
    config = of_size(size)
    config.unlock()
    config.name = name if size == "full" else f"{name} lite"
    config.model = ml_collections.ConfigDict({"dtype": config.model.dtype})
    if not blurred:
        config.degradation.sigma_range = _NO_BLUR
        config.validation.sigmas = (0.0,)
    return config


def finetuned(
    config: ml_collections.ConfigDict, weights: str
) -> ml_collections.ConfigDict:
    """The recipe that continues another one's network on blurred photographs.

    Args:
        config: of a network that has not seen any.
        weights: of that network, a run's workdir by default.
    """
    blurred = eddsrn.get_config()
    config.unlock()
    config.name = f"{config.name}, fine-tuned"
    config.init_from = weights
    config.degradation.sigma_range = blurred.degradation.sigma_range
    config.validation.sigmas = blurred.validation.sigmas
    return config.lock()
