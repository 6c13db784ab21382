"""Parameters, cost and time per image of the networks, beside SRResNet.

    python -m benchmarks.networks [--height=339 --width=510]

The paper's own ratio of times to SRResNet's is 1.30 (DIV2K-val) and 1.40 (Set14).
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import flags

from configs import eddsrn, eddsrn_lite
from eddsrn_jax.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.models import EDDSRN, SRResNet
from eddsrn_jax.runtime import run_command

_HEIGHT = flags.DEFINE_integer("height", 339, "Of the small image; DIV2K has 339.")
_WIDTH = flags.DEFINE_integer("width", 510, "Of the small image; DIV2K has 510.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each network.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the computation.")


def prepare(model) -> Callable[[], None]:
    """Compiles a network for the image size; returns a call that waits for its end."""
    image = jax.random.uniform(jax.random.key(1), (1, _HEIGHT.value, _WIDTH.value, 3))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    apply = jax.jit(model.apply)

    def call() -> None:
        jax.block_until_ready(apply(variables, image))

    call()
    return call


def main() -> None:
    """Prints a row for each network."""
    dtype = _DTYPE.value
    models = {
        "SRResNet": SRResNet(dtype=dtype),
        "ED-DSRN": EDDSRN(**{**eddsrn.get_config().model, "dtype": dtype}),
        "ED-DSRN lite": EDDSRN(**{**eddsrn_lite.get_config().model, "dtype": dtype}),
    }
    calls = {name: prepare(model) for name, model in models.items()}
    seconds = {name: [] for name in models}
    # In turn, so that a machine that slows down slows all of them.
    for _ in range(_REPEATS.value):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{jax.devices()[0].device_kind}, {dtype}, jax {jax.__version__}, input"
        f" {_WIDTH.value} x {_HEIGHT.value}, median of {_REPEATS.value}\n"
    )
    print("| network | parameters | MAC per LR pixel | ms per image | over SRResNet |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, model in models.items():
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        print(
            f"| {name} | {count_parameters(shapes['params']) / 1e6:.2f} M"
            f" | {macs_per_pixel(model) / 1e6:.2f} M | {1e3 * medians[name]:.0f}"
            f" | {medians[name] / medians['SRResNet']:.2f} |"
        )


if __name__ == "__main__":
    run_command(main)
