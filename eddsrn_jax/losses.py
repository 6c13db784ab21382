"""Training losses: means over all values of float images in [0, 1]."""

import jax
import jax.numpy as jnp


def mse(pred: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean(jnp.square(pred - target))


def charbonnier(pred: jax.Array, target: jax.Array, *, eps: float) -> jax.Array:
    """Mean of sqrt(difference^2 + eps^2), an L1 norm that is smooth at zero."""
    return jnp.mean(jnp.sqrt(jnp.square(pred - target) + eps**2))


def joint_loss(
    outputs: dict[str, jax.Array],
    targets: dict[str, jax.Array],
    *,
    sr: str,
    alpha: float,
    eps: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_sr + alpha * L_db; L_sr alone where the network has no deblurred output.

    Args:
        outputs: "sr" [N, H, W, 3] and, if the network has it, "deblurred".
        targets: "hr" [N, H, W, 3] and "lr_sharp" [N, h, w, 3].
        sr: "mse" (the paper's) or "charbonnier".
        alpha: weight of the deblurring loss.
        eps: of the Charbonnier loss.

    Returns:
        The loss, and its parts by name, unweighted.

    Source: paper, Eq. 3 to 6. Differs: Eq. 5 divides by N, W and H alone; here every
    loss is a mean over the channels too.
    """
    if sr == "mse":
        parts = {"loss_sr": mse(outputs["sr"], targets["hr"])}
    else:
        parts = {"loss_sr": charbonnier(outputs["sr"], targets["hr"], eps=eps)}
    loss = parts["loss_sr"]
    if "deblurred" in outputs:
        parts["loss_db"] = charbonnier(outputs["deblurred"], targets["lr_sharp"], eps=eps)
        loss = loss + alpha * parts["loss_db"]
    return loss, {"loss": loss, **parts}
