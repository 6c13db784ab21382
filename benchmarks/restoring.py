"""Times restoring in JAX and PyTorch: networks alone, and photos, pixels to pixels."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.timing import interleave
from benchmarks.twin import Twin, make_twin, torch_device
from eddsrn_jax.checkpoints.found_weights import SHIPPED
from eddsrn_jax.checkpoints.weights import read_network
from eddsrn_jax.data.sources import folder_source, open_split
from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
from eddsrn_jax.evaluation.network import read_photos
from eddsrn_jax.models import EDDSRN, SCALE, STRIDE, SRResNet
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.tiles import cut

# Size of DIV2K's photos after shrinking by 4, in pixels.
HEIGHT, WIDTH = 339, 510
_TOLERANCE = 1e-4


def networks() -> dict[str, tuple[nn.Module, Any]]:
    """Returns networks and their variables by name.

    Networks with included weights are trained; the others have random weights.
    """
    found = {}
    for name in SHIPPED:
        network = read_network(name)
        found[name] = (network.model, {"params": network.params})
    for name, model in (("paper-size", EDDSRN()), ("SRResNet", SRResNet())):
        found[name] = (
            model,
            jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))),
        )
    return found


def check_twin(model: nn.Module, variables: Any, twin: Twin) -> float:
    """Returns the largest difference of the two networks' outputs.

    The difference is relative to the largest output value, or to 1 if that is larger.

    Raises:
        AssertionError: the difference is above 1e-4.
    """
    image = np.random.default_rng(0).uniform(size=(1, 48, 64, 3)).astype(np.float32)
    expected = jax.device_get(jax.jit(model.apply)(variables, image))
    with torch.inference_mode():
        found = twin(_to_torch(image))
    worst = 0.0
    for name, value in expected.items():
        difference = np.abs(_to_numpy(found[name]) - value).max()
        worst = max(worst, float(difference / max(np.abs(value).max(), 1)))
    if worst > _TOLERANCE:
        raise AssertionError(f"outputs differ by {worst:.2g} between JAX and PyTorch")
    return worst


def compare_networks(*, repeats: int, compiled: bool) -> Iterator[dict[str, Any]]:
    """Yields rows: milliseconds of a network for one image of DIV2K's size."""
    height, width = (-(-side // STRIDE) * STRIDE for side in (HEIGHT, WIDTH))
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(1, height, width, 3)).astype(np.float32)
    for name, (model, variables) in networks().items():
        twin = make_twin(model, variables).to(torch_device()).eval()
        check_twin(model, variables, twin)
        for dtype in ("float32", "bfloat16"):
            calls = {
                "jax": _network_call(model.clone(dtype=dtype), variables, image),
                "torch": _twin_call(twin, image, dtype, compiled=compiled),
            }
            seconds = interleave(calls, repeats=repeats)
            yield _row(f"network alone, {name}, {dtype}, {WIDTH} x {HEIGHT}", seconds)


def compare_photos(
    folder: Path | None, *, repeats: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """Yields rows: milliseconds of included networks for photos, 8 bits in and out.

    Args:
        folder: photos to shrink, blur and restore; None takes the bundled ones.
        repeats: timed calls.
        compiled: whether PyTorch's networks are compiled.
    """
    many = list(_blurred(folder))
    sets = {
        f"{WIDTH} x {HEIGHT}": [photo_of(HEIGHT, WIDTH)],
        f"{len(many)} of {folder.name if folder else 'scikit-image'}": many,
    }
    for name in SHIPPED:
        network = read_network(name)
        twin = make_twin(network.model, {"params": network.params})
        apply = _compiled(twin.to(torch_device()).eval(), compiled=compiled)
        restorer = Restorer(network.model, network.params)
        for where, photos in sets.items():
            for photo in photos:
                restorer.prepare(*photo.shape[:2])
            calls = {
                "jax": functools.partial(lambda f, x: [*map(f, x)], restorer, photos),
                "torch": functools.partial(
                    lambda f, x: [_restore(f, photo) for photo in x], apply, photos
                ),
            }
            seconds = interleave(calls, repeats=repeats)
            yield _row(f"pixels to pixels, {name}, {where}", seconds)


def time_sizes(*, repeats: int) -> Iterator[dict[str, Any]]:
    """Yields rows: seconds per megapixel of result, for results of several sizes."""
    for name in SHIPPED:
        network = read_network(name)
        restorer = Restorer(network.model, network.params)
        for megapixels in (0.25, 1, 4, 16):
            side = round((megapixels * 1e6 / SCALE**2 / 12) ** 0.5)
            photo = photo_of(3 * side, 4 * side)
            restorer.prepare(*photo.shape[:2])
            call = functools.partial(restorer, photo)
            seconds = interleave({"jax": call}, repeats=repeats)
            yield {
                "what": f"restoring to {megapixels:g} megapixels, {name}",
                "unit": "s/megapixel",
                "jax": seconds["jax"] / (photo[..., 0].size * SCALE**2 / 1e6),
            }


def photo_of(height: int, width: int) -> np.ndarray:
    """Returns a photo of that size, made of a bundled one and its mirror images."""
    _, photo = next(read_photos(open_split("bundled").validation))
    return np.ascontiguousarray(cut(photo, 0, 0, (height, width)))


def _blurred(folder: Path | None) -> Iterator[np.ndarray]:
    source = folder_source(folder) if folder else open_split("bundled").train
    for _, photo in read_photos(source):
        yield degrade_photo(cut_to_scale(photo), 1.5, max_sigma=2.0)[1]


def _row(what: str, seconds: dict[str, float]) -> dict[str, Any]:
    times = {name: 1e3 * value for name, value in seconds.items()}
    return {
        "what": what,
        "unit": "ms",
        **times,
        "ratio": times["torch"] / times["jax"],
    }


def _network_call(
    model: nn.Module, variables: Any, image: np.ndarray
) -> Callable[[], None]:
    apply, variables, image = jax.jit(model.apply), *jax.device_put((variables, image))
    return lambda: jax.block_until_ready(apply(variables, image))


def _compiled(twin: Twin, *, compiled: bool) -> Callable[..., Any]:
    return torch.compile(twin) if compiled else twin


def _twin_call(
    twin: Twin, image: np.ndarray, dtype: str, *, compiled: bool
) -> Callable[[], None]:
    apply, image = _compiled(twin, compiled=compiled), _to_torch(image)
    cast = torch.autocast(
        torch_device(), getattr(torch, dtype), enabled=dtype != "float32"
    )

    def call() -> None:
        with torch.inference_mode(), cast:
            outputs = apply(image)
        if torch_device() == "cuda":
            torch.cuda.synchronize()
        del outputs

    return call


def _restore(apply: Callable[..., Any], photo: np.ndarray) -> dict[str, np.ndarray]:
    """Restores a photo as Restorer does, with PyTorch.

    The photo is extended by mirroring to multiples of 8. The results are rounded to 8
    bits and cut back.
    """
    height, width, _ = photo.shape
    size = tuple(-(-side // STRIDE) * STRIDE for side in (height, width))
    image = _to_torch(cut(photo, 0, 0, size)[None])
    with torch.inference_mode():
        outputs = apply(image.float() / 255)
        levels = {
            name: (255 * x.clamp(0, 1) + 0.5).floor().to(torch.uint8)
            for name, x in outputs.items()
        }
    return {
        "sr": _to_numpy(levels["sr"])[0, : SCALE * height, : SCALE * width],
        "deblurred": _to_numpy(levels["deblurred"])[0, :height, :width],
    }


def _to_torch(image: np.ndarray) -> torch.Tensor:
    # A copy, because a photo's memory may be read-only.
    tensor = torch.from_numpy(np.array(image, order="C")).to(torch_device())
    return tensor.permute(0, 3, 1, 2)


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).cpu().numpy()
