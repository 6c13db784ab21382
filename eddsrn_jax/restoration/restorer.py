"""Restores photos of any size with a network: deblurred, and four times as large.

Photos are uint8, uint16, or float in [0, 1]. Their shape is [h, w, C] with one channel
(gray), two (gray, alpha), three (RGB) or four (RGB, alpha).
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from eddsrn_jax.checkpoints.weights import read_network
from eddsrn_jax.compiler import enable_compilation_cache
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import written_beside
from eddsrn_jax.images.metadata import describes
from eddsrn_jax.images.pixels import from_pillow, to_pillow
from eddsrn_jax.machine import device_memory, is_out_of_memory
from eddsrn_jax.models import SCALE, STRIDE, abstract_outputs, apply
from eddsrn_jax.models.complexity import activation_bytes_per_pixel
from eddsrn_jax.restoration.blocks import Block, gray, is_gray, make_block
from eddsrn_jax.restoration.onnx_graph import write_onnx
from eddsrn_jax.restoration.outputs import Restored
from eddsrn_jax.restoration.tile_network import restore_window
from eddsrn_jax.restoration.tiles import (
    LARGEST_WINDOW,
    MOST_FITTED,
    Planner,
    Tile,
    cut,
)
from eddsrn_jax.restoration.transparency import fill_hidden

_log = logging.getLogger(__name__)

# Share of the device's memory that a window's activations may take.
_MEMORY_SHARE = 1 / 3
_DTYPES = ("float32", "bfloat16", "float16")


class Restorer:
    """A network with its weights, applied to photos of any size.

    Any number of threads may share one Restorer.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Any,
        *,
        sigma_range: tuple[float, float] = (1.0, 2.0),
        outputs: Sequence[str] | None = None,
        largest_window: int | None = None,
    ):
        """Puts the weights on the first local device.

        Args:
            model: network that maps float [N, h, w, 3] in [0, 1] to images by name, see
                eddsrn_jax.models.
            params: network parameters.
            sigma_range: lowest and highest blur that the network was trained for.
            outputs: "sr", "deblurred" or both; only these are computed. None computes
                all that the model has.
            largest_window: side of the largest square part of a photo that is restored
                at once, a multiple of 8. None takes the largest useful one that fits
                the memory.

        JAX's compilation cache is set up, see `enable_compilation_cache`.

        Raises:
            InputError: the model lacks an output, or the window is not a multiple of 8
                or too small for two halos and pixels between them; or there is no device.
        """
        enable_compilation_cache()
        device = jax.local_devices()[0]
        self.sigma_range = sigma_range
        self._outputs = _check_outputs(outputs, model) if outputs else None
        self._model = model
        self._params = jax.device_put(params, device)
        # The radius of the receptive field is measured from a multiple of the stride.
        # Without any halo windows could end between two multiples.
        surroundings = getattr(model, "halo", model.receptive_radius)
        halo = max(1, -(-surroundings // STRIDE)) * STRIDE
        if largest_window is None:
            memory = _MEMORY_SHARE * device_memory(device)
            fitting = int((memory / activation_bytes_per_pixel(model)) ** 0.5) // 64 * 64
            largest_window = max(min(fitting, LARGEST_WINDOW), 2 * halo + STRIDE)
        # A GPU should restore a photo in less time than compiling a program takes.
        most_fitted = MOST_FITTED if device.platform == "cpu" else 0
        self._planner = Planner(
            halo=halo, largest=largest_window, most_fitted=most_fitted
        )
        self._prepared: set[tuple[int, int]] = set()

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | str | None = None,
        *,
        workdir: Path | str | None = None,
        dtype: str | None = None,
        outputs: Sequence[str] | None = None,
        largest_window: int | None = None,
    ) -> "Restorer":
        """Loads weights: included, in a file or folder, from a model hub, or of a run.

        Args:
            weights: name of included weights, path of a file or folder, or repository
                such as "org/repo", see `find_weights`; by default the package's default
                weights.
            workdir: folder of a training run, whose best checkpoint is loaded.
            dtype: type to compute in, such as "bfloat16"; by default the network's own.
            outputs, largest_window: see `__init__`.

        Raises:
            InputError: both `weights` and `workdir` are given, or the one given cannot
                be read; see also `__init__`.
        """
        if weights and workdir:
            raise InputError(
                f"both weights ({weights}) and a workdir ({workdir}) are given; give only"
                " one of them"
            )
        if dtype is not None and dtype not in _DTYPES:
            raise InputError(f"dtype={dtype!r}: expected one of {', '.join(_DTYPES)}")
        if workdir:
            # Orbax takes seconds to import.
            from eddsrn_jax.checkpoints.manager import read_run

            network = read_run(Path(workdir))
        else:
            network = read_network(weights)
        return cls(
            network.model.clone(dtype=dtype) if dtype else network.model,
            network.params,
            sigma_range=network.sigma_range,
            outputs=outputs,
            largest_window=largest_window,
        )

    def prepare(self, height: int, width: int) -> None:
        """Compiles a program for 8-bit photos of one size, so that the first is fast too.

        Without this call, a size gets a program of its own at its third photo. Until then
        its photos use the programs that all sizes share. A program restores windows, see
        tiles.py. Once 32 sizes of windows have their own programs, photos that need
        another size use the shared ones. On GPUs and TPUs all photos use these.
        """
        size = (height, width)
        if size not in self._prepared:
            self._planner.fit(size)
            photo = np.zeros((*size, 3), np.uint8)
            next(self.blocks(photo))
            window, tiles = self._planner.plan(size)
            if len(tiles) > 1:
                # The last part may end within its window, which takes another program.
                self._restore(photo, tiles[-1], window, 1.0)
            self._prepared.add(size)

    def expect(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Chooses windows that suit the (height, width) of each photo to come.

        It compiles nothing, and does nothing after the first photo. Without this call,
        the first photos use windows that all sizes share, which are larger than small
        photos.
        """
        self._planner.expect(sizes)

    def __call__(
        self, image: np.ndarray | Image.Image, *, strength: float = 1.0
    ) -> Restored:
        """Restores a photo.

        Args:
            image: Pillow image, which is turned upright by its EXIF orientation; or
                array [h, w] or [h, w, C], see the module.
            strength: 1 for the network's outputs, 0 for bicubic interpolation and the
                unchanged photo; values between mix them.

        Returns:
            The results, as Pillow images or arrays like `image` and of its dtype. For a
            Pillow image with a palette, CMYK or 1 bit they are RGB or gray. Pillow
            images keep the colour profile.

        Raises:
            TypeError: the image is neither an array nor a Pillow image.
            ValueError: the array or the strength is not as described above.
            InputError: the device has too little memory even for small windows, or the
                range of a Pillow image's pixels is unknown.
            FloatingPointError: a result is not finite, not even in float32.
        """
        if isinstance(image, Image.Image):
            restored = self(from_pillow(image), strength=strength)
            return Restored(
                **{name: _like(image, to_pillow(x)) for name, x in restored.items()}
            )
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"expected a NumPy array or a Pillow image, not {type(image).__name__};"
                " read a file with PIL.Image.open"
            )
        pixels = image[:, :, None] if image.ndim == 2 else image
        dtype = image.dtype.newbyteorder("=")
        results: dict[str, np.ndarray] = {}
        for block in self.blocks(pixels, strength=strength):
            for name, part in block.items():
                scale = SCALE if name == "sr" else 1
                if name not in results:
                    height, width, channels = pixels.shape
                    shape = (scale * height, scale * width, channels)
                    results[name] = np.empty(shape, dtype)
                top, left = scale * block.top, scale * block.left
                rows, columns, _ = part.shape
                results[name][top : top + rows, left : left + columns] = part
        shape = slice(None) if image.ndim == 3 else (slice(None), slice(None), 0)
        return Restored(**{name: result[shape] for name, result in results.items()})

    def blocks(self, pixels: np.ndarray, *, strength: float = 1.0) -> Iterator[Block]:
        """Restores a photo part by part, without memory for whole results.

        Colours under alpha 0 have no influence; visible pixels nearby replace them.

        Args:
            pixels: photo [h, w, C], see the module.
            strength: see `__call__`.

        Yields:
            Parts that together cover the photo, row by row. If the device runs out of
            memory, the parts start again from the first, smaller than before.

        Raises:
            ValueError, InputError, FloatingPointError: see `__call__`.
        """
        pixels = fill_hidden(_checked(pixels, strength))
        height, width, channels = pixels.shape
        color = pixels[:, :, : channels - 1] if channels in (2, 4) else pixels
        alpha = pixels[:, :, channels - 1 :] if channels in (2, 4) else None
        if color.dtype.kind == "f":
            color = color.astype(np.float32)
        if is_gray(color):
            color = color[:, :, :1]
        window, tiles = self._planner.plan((height, width))
        i = 0
        while i < len(tiles):
            try:
                images = self._restore(color, tiles[i], window, strength)
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._planner.shrink(window)
                window, tiles = self._planner.plan((height, width))
                i = 0
            else:
                if color.shape[2] == 1 and channels > 2:
                    images = {name: np.repeat(x, 3, axis=2) for name, x in images.items()}
                yield make_block(images, tiles[i], alpha, pixels.dtype)
                i += 1

    def _restore(
        self, color: np.ndarray, tile: Tile, size: tuple[int, int], strength: float
    ) -> dict[str, np.ndarray]:
        """Restores a tile's part of a photo, with as many channels as `color`."""
        window = cut(color, tile.top, tile.left, size)
        if window.shape[2] == 1:
            window = np.repeat(window, 3, axis=2)
        height, width, _ = color.shape
        end = np.minimum((height - tile.top, width - tile.left), size)
        # Programs that all sizes share always mask, as photos may end within the window.
        stride = self._model.stride
        whole = (-(-end // stride) * stride == size).all()
        masked = not (whole and size in self._planner.fitted)
        outputs = jax.device_get(self._run(window, end, strength, masked=masked))
        images = {}
        for name, output in outputs.items():
            scale = SCALE if name == "sr" else 1
            (top, bottom), (left, right) = (
                (scale * (start - first), scale * (stop - first))
                for first, (start, stop) in (
                    (tile.top, tile.rows),
                    (tile.left, tile.columns),
                )
            )
            part = output[top:bottom, left:right]
            images[name] = gray(part) if color.shape[2] == 1 else part
        return images

    def _run(
        self, window: np.ndarray, end: np.ndarray, strength: float, *, masked: bool
    ) -> dict[str, jax.Array]:
        run = functools.partial(
            restore_window,
            self._params,
            window,
            end,
            np.float32(strength),
            names=self._outputs,
            masked=masked,
        )
        outputs, finite = run(model=self._model)
        if not finite and (dtype := jnp.dtype(self._model.dtype)) != jnp.float32:
            _log.warning("the result is not finite in %s; retrying in float32", dtype)
            outputs, finite = run(model=self._model.clone(dtype="float32"))
        if not finite:
            raise FloatingPointError("the network's result is not finite")
        return outputs

    def export(self, path: Path | str) -> None:
        """Writes the network, with its weights, as a `jax.export` artifact.

        `jax.export.deserialize(path.read_bytes()).call(images)` maps float32 [b, h, w, 3]
        in [0, 1] to a dict of "sr" and "deblurred", which are not clipped. h and w are
        any multiples of 8. The artifact runs on CPUs, CUDA GPUs and TPUs without this
        project's code. This version of JAX can read it and, for six months, newer ones.

        Raises:
            InputError: the file cannot be written.
        """
        sizes = jax.export.symbolic_shape("b, 8*h, 8*w, 3")
        images = jax.ShapeDtypeStruct(sizes, "float32")
        params = jax.device_get(self._params)
        restore = jax.jit(lambda images: apply(self._model, params, images))
        exported = jax.export.export(restore, platforms=("cpu", "cuda", "tpu"))(images)
        try:
            with written_beside(Path(path)) as temporary:
                temporary.write_bytes(exported.serialize())
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error

    def export_onnx(self, path: Path | str) -> None:
        """Writes the network, with its weights, as an ONNX file, see `write_onnx`.

        ONNX Runtime and other programs run it without JAX and this project. It computes
        in float32.

        Raises:
            InputError: onnx is not installed, or the file cannot be written.
        """
        write_onnx(Path(path), self._model, self._params)


def _check_outputs(outputs: Sequence[str], model: nn.Module) -> tuple[str, ...]:
    known = abstract_outputs(model)
    for name in outputs:
        if name not in known:
            raise InputError(
                f"the network has no output {name!r}, only {', '.join(known)}"
            )
    return tuple(outputs)


def _checked(pixels: np.ndarray, strength: float) -> np.ndarray:
    """Returns a photo in the machine's byte order.

    Raises:
        ValueError: the photo or the strength is unusable.
    """
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ValueError(f"expected a photo [h, w] or [h, w, 1..4], not {pixels.shape}")
    if pixels.dtype.kind == "f":
        low, high = pixels.min(), pixels.max()
        # NaN fails this comparison too.
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected float pixels in [0, 1], not {low:g} to {high:g}")
    elif pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise ValueError(f"expected uint8, uint16 or float pixels, not {pixels.dtype}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength:g}: expected a number in [0, 1]")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _like(image: Image.Image, result: Image.Image) -> Image.Image:
    """Adds the colour profile of a Pillow image, which describes its result too."""
    icc = image.info.get("icc_profile")
    channels = len(result.getbands())
    if isinstance(icc, bytes) and describes(icc, channels, strictly=True):
        result.info["icc_profile"] = icc
    return result
