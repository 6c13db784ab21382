"""Computes lower bounds of a step's and an image's time.

    python -m benchmarks.roofline [--batch_size=N] [--side=N]

Arithmetic is counted for the convolutions. A training step has three passes over them:
forward, backward to the input, and backward to the kernel. Memory traffic is counted for
data that no cache can hold: each pass moves every convolution's input and output once,
and Adam moves its state. The lower bound, or floor, is the longer of the two times. One
column uses rates measured on this device, the other those of an H200.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import flags

from eddsrn_jax.checkpoints.found_weights import SHIPPED
from eddsrn_jax.checkpoints.weights import read_network
from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.models import EDDSRN, SCALE
from eddsrn_jax.models.complexity import convolutions

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Crops in a training step.")
_SIDE = flags.DEFINE_integer("side", 192, "Side of a crop in pixels.")
# Measured rates of an H200: matrix products in operations per second (float32 as TF32),
# memory in bytes per second.
_H200 = {"bfloat16": 790e12, "float32": 395e12, "memory": 4.3e12}
# Adam reads parameter, gradient and two moments in float32. It writes all but the
# gradient.
_ADAM_BYTES = 7 * 4
# Pixels of a DIV2K photo, shrunk by 4 and extended to multiples of 8.
_IMAGE_PIXELS = 344 * 512


def cost(model: nn.Module, pixels: int, *, training: bool) -> tuple[float, float]:
    """Returns the operations and the bytes moved for `pixels` pixels of input.

    A multiply-accumulate is two operations. A training step has three passes and Adam.
    """
    side = 64
    operations = moved = parameters = 0.0
    for x, kernel, output in convolutions(model, side):
        *window, _ = kernel.shape
        operations += 2 * math.prod(output.shape) * math.prod(window)
        moved += (x.size + output.size) * x.dtype.itemsize
        parameters += kernel.size
    passes = 3 if training else 1
    scale = passes * pixels / side**2
    return scale * operations, scale * moved + training * parameters * _ADAM_BYTES


def measure_rates() -> dict[str, float]:
    """Measures this device's rates.

    Returns:
        Operations per second of convolutions in "float32" and "bfloat16"; bytes per
        second of "memory".
    """
    rates = {}
    on_cpu = jax.default_backend() == "cpu"
    n, side, channels = (8, 64, 64) if on_cpu else (32, 64, 256)
    for dtype in ("float32", "bfloat16"):
        x = jnp.ones((n, side, side, channels), dtype)
        kernel = jnp.ones((3, 3, channels, channels), dtype)
        convolve = jax.jit(
            lambda x, kernel: jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
        operations = 2 * x.size * kernel[..., 0].size
        rates[dtype] = operations / _fastest(lambda c=convolve, a=(x, kernel): c(*a))
    x = jnp.ones(2**26 if on_cpu else 2**30, "float32")
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    holder = [x]

    def scale() -> jax.Array:
        holder[0] = double(holder[0])
        return holder[0]

    rates["memory"] = 2 * x.nbytes / _fastest(scale)
    return rates


def _fastest(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Prints the rates, and the floors as a table."""
    here = measure_rates()
    device = jax.devices()[0].device_kind
    for name, rates in ((device, here), ("H200", _H200)):
        print(
            f"{name}: {rates['float32'] / 1e12:.3g} TFLOP/s in float32,"
            f" {rates['bfloat16'] / 1e12:.3g} in bfloat16,"
            f" {rates['memory'] / 1e9:.3g} GB/s"
        )
    print(f"\n| what | TFLOP | GB | floor, {device}, ms | floor, H200, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    pixels = _BATCH_SIZE.value * (_SIDE.value // SCALE) ** 2
    jobs = {
        f"step of {_BATCH_SIZE.value} crops of {_SIDE.value}": (pixels, True),
        "image of 510 x 339": (_IMAGE_PIXELS, False),
    }
    for what, (pixels, training) in jobs.items():
        included = {name: read_network(name).model for name in SHIPPED}
        for name, model in {**included, "paper-size": EDDSRN()}.items():
            for dtype in ("float32", "bfloat16"):
                work, moved = cost(model.clone(dtype=dtype), pixels, training=training)
                floors = (
                    1e3 * max(work / rates[dtype], moved / rates["memory"])
                    for rates in (here, _H200)
                )
                print(
                    f"| {what}, {name}, {dtype} | {work / 1e12:.3g} |"
                    f" {moved / 1e9:.3g} | {' | '.join(f'{x:.3g}' for x in floors)} |"
                )


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
