"""Training losses: means over a batch of float images; targets are in [0, 1]."""

import functools
import re
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp

from eddsrn_jax.ops.color import luminance
from eddsrn_jax.ops.resize import bicubic_downscale
from eddsrn_jax.own_code import import_function

# Added to each crop's error. Without it, flat crops would outweigh all others, because
# their errors are close to 0.
_LOG_MSE_FLOOR = 1e-4


def l1(pred: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean absolute error."""
    return jnp.mean(jnp.abs(pred - target))


def mse(pred: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared error."""
    return jnp.mean(jnp.square(pred - target))


def log_mse(pred: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean of the logarithms of the images' mean squared errors.

    It corresponds to the scores, which are means of PSNR, a logarithm too, over images.
    """
    errors = jnp.mean(jnp.square(pred - target), axis=(1, 2, 3))
    return jnp.mean(jnp.log(errors + _LOG_MSE_FLOOR))


def charbonnier(pred: jax.Array, target: jax.Array, *, eps: float) -> jax.Array:
    """Returns the mean of sqrt(difference^2 + eps^2), an L1 norm smooth at zero."""
    return jnp.mean(jnp.sqrt(jnp.square(pred - target) + eps**2))


# Names of super-resolved luminance images.
_LUMINANCE = re.compile(r"sr(_x\d+)?_y")

LOSSES: MutableMapping[str, Callable[..., Any]] = {
    loss.__name__: loss for loss in (mse, l1, charbonnier, log_mse)
}


def import_loss(path: str) -> None:
    """Adds a user's own loss, a function of (pred, target), to LOSSES.

    Args:
        path: import path that the user has named, see `import_object`.

    Raises:
        InputError: the path cannot be imported, or is not that of a function.
    """
    LOSSES[path] = import_function(path, "(pred, target)")


def joint_loss(
    outputs: dict[str, jax.Array],
    targets: dict[str, jax.Array],
    *,
    sr: str,
    deblurred: str,
    alpha: float,
    eps: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns L_sr + alpha * L_db, or the loss of the only output, unweighted.

    Args:
        outputs: "sr" [N, H, W, 3], "deblurred" [N, h, w, 3], or both. If there are
            luminance images, "sr_y" [N, H, W, 1] and smaller ones such as "sr_x2_y",
            they take the place of "sr", and their losses add up. Other outputs have no
            loss.
        targets: "hr" [N, H, W, 3] and "lr_sharp" [N, h, w, 3].
        sr: loss of the super-resolved image, a name in LOSSES; the paper's is "mse".
        deblurred: the same for the deblurred image; the paper's is "charbonnier".
        alpha: weight of the deblurring loss.
        eps: constant of the Charbonnier loss.

    Returns:
        The loss; and by name the same loss, "loss", and its unweighted parts, "loss_sr"
            and "loss_db" (of "deblurred").

    Source: paper, Eq. 3 to 6. Differs: Eq. 5 divides by N, W and H alone. Here every
    loss is a mean over the channels too.
    """
    compare = {**LOSSES, "charbonnier": functools.partial(charbonnier, eps=eps)}
    parts: dict[str, jax.Array] = {}
    if "sr" in outputs:
        levels = [name for name in outputs if _LUMINANCE.fullmatch(name)] or ["sr"]
        parts["loss_sr"] = add_up(
            compare[sr](outputs[name], _target(outputs[name], targets["hr"]))
            for name in levels
        )
    if "deblurred" in outputs:
        parts["loss_db"] = compare[deblurred](outputs["deblurred"], targets["lr_sharp"])
    weights = {"loss_sr": 1.0, "loss_db": alpha if "sr" in outputs else 1.0}
    loss = add_up(weights[name] * part for name, part in parts.items())
    return loss, {"loss": loss, **parts}


def add_up(losses: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum of one or more losses."""
    # Only the sum of none is a number instead of an array.
    return sum(losses)  # pyright: ignore[reportReturnType]


def _target(output: jax.Array, hr: jax.Array) -> jax.Array:
    """Returns `hr` at the size of an output, as luminance if the output is luminance."""
    if output.shape[-1] == 1:
        hr = luminance(hr)
    factor = hr.shape[1] // output.shape[1]
    return bicubic_downscale(hr, factor) if factor > 1 else hr
