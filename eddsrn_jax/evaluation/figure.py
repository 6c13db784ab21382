"""A picture of all methods' results for one photo, like Figure 3 of the paper."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
from eddsrn_jax.evaluation.metrics import MIN_SIDE, score
from eddsrn_jax.models import SCALE
from eddsrn_jax.restoration.outputs import Restored

# Side of the detail in pixels of the photo, and its enlargement in the picture.
_SIDE, _ZOOM = 96, 2
_COLUMNS, _GAP, _LINE = 6, 8, 14


def check_size(photo: np.ndarray, name: str) -> None:
    """Raises InputError, which begins with the name, if a photo is too small."""
    height, width = photo.shape[:2]
    if min(cut_to_scale(photo).shape[:2]) < max(_SIDE, SCALE * MIN_SIDE):
        raise InputError(f"{name}: {width} x {height} pixels are too few for a figure")


def draw_figure(
    methods: Mapping[str, Callable[..., Restored]], photo: np.ndarray, *, sigma: float
) -> np.ndarray:
    """Draws one detail of every method's result: the worst of bicubic interpolation.

    Args:
        methods: methods by caption. Those without "sr" show "deblurred".
        photo: uint8 [H, W, 3]; the methods get it shrunk and blurred.
        sigma: standard deviation of the blur in pixels of the small image.

    Returns:
        uint8 [H', W', 3]. Below each detail are luminance PSNR and SSIM of the whole
        result at border 4.

    Raises:
        InputError: the photo is too small.
    """
    check_size(photo, "photo")
    hr = cut_to_scale(photo)
    lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=sigma)
    top, left = _worst(bicubic(lr_blur).sr, hr)
    panels = [
        _panel(hr, top, left, ["photo", "PSNR / SSIM"], scale=1),
        _panel(lr_blur, top, left, [f"input, sigma {sigma:.3g}"], scale=SCALE),
    ]
    for name, method in methods.items():
        told = (sigma,) if getattr(method, "takes_sigma", False) else ()
        restored = method(lr_blur, *told)
        output, image = next(iter(restored.items()))
        scores = score(image, hr if output == "sr" else lr_sharp)
        text = f"{scores['psnr_y_crop4']:.2f} / {scores['ssim_y_crop4']:.3f}"
        text += ", deblurred" if output == "deblurred" else ""
        scale = 1 if output == "sr" else SCALE
        panels.append(_panel(image, top, left, [name, text], scale=scale))
    return _grid(panels)


def _worst(pred: np.ndarray, hr: np.ndarray) -> tuple[int, int]:
    """Returns top and left of the detail with the largest error, on a coarse grid."""
    error = np.square(pred.astype(np.float32) - hr).sum(axis=2)
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    step = _SIDE // 4 // SCALE * SCALE
    height, width = hr.shape[:2]
    return max(
        (
            (top, left)
            for top in range(0, height - _SIDE + 1, step)
            for left in range(0, width - _SIDE + 1, step)
        ),
        key=lambda at: (
            sums[at[0] + _SIDE, at[1] + _SIDE]
            - sums[at[0], at[1] + _SIDE]
            - sums[at[0] + _SIDE, at[1]]
            + sums[at[0], at[1]]
        ),
    )


def _panel(
    image: np.ndarray, top: int, left: int, lines: Sequence[str], *, scale: int
) -> Image.Image:
    """Draws a detail of an image with lines of text below it.

    Args:
        image: uint8 [h, w, 3].
        top, left: position of the detail in pixels of the photo.
        lines: lines of text.
        scale: size of the photo divided by that of the image. A smaller image is
            enlarged by repeating pixels.
    """
    right, bottom = left + _SIDE, top + _SIDE
    box = (left // scale, top // scale, right // scale, bottom // scale)
    side = _SIDE * _ZOOM
    panel = Image.new("RGB", (side, side + _LINE * len(lines)), "white")
    detail = Image.fromarray(image).crop(box)
    panel.paste(detail.resize((side, side), Image.Resampling.NEAREST))
    draw = ImageDraw.Draw(panel)
    for i, line in enumerate(lines):
        draw.text((0, side + _LINE * i), line, fill="black")
    return panel


def _grid(panels: Sequence[Image.Image]) -> np.ndarray:
    """Arranges panels in a grid, row by row."""
    width, height = map(max, zip(*(panel.size for panel in panels), strict=True))
    rows = -(-len(panels) // _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    for i, panel in enumerate(panels):
        row, column = divmod(i, _COLUMNS)
        sheet.paste(panel, (column * (width + _GAP), row * (height + _GAP)))
    return np.asarray(sheet)
