"""Draws the networks into eddsrn.svg and half_size.svg: python docs/draw_networks.py.

Positions and sizes are in pixels of the drawing.
"""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

_COLORS = {
    "image": "#fff3d6",
    "fixed": "#e3e3e3",
    "encoder": "#d9e8fb",
    "decoder": "#dcf3df",
    "head": "#f5ddf0",
}
_LINE = 15


class Drawing:
    """An SVG of boxes and arrows; a box is named by its first line of text."""

    def __init__(self, width: int, height: int, title: str):
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []
        self._boxes: dict[str, tuple[int, int, int, int]] = {}

    def box(self, name: str, kind: str, *, at: tuple[int, int], text: str = "") -> None:
        """Draws a box around `at`; `text` has more lines, separated by bars."""
        lines = [name, *filter(None, text.split("|"))]
        width = max(len(line) for line in lines) * 7 + 16
        height = _LINE * len(lines) + 12
        left, top = at[0] - width // 2, at[1] - height // 2
        self._boxes[name] = (left, top, left + width, top + height)
        self._parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="5"'
            f' fill="{_COLORS[kind]}" stroke="#444"/>'
        )
        for i, line in enumerate(lines):
            weight = "bold" if i == 0 else "normal"
            y = top + 18 + _LINE * i
            self._text(line, (at[0], y), f'text-anchor="middle" font-weight="{weight}"')

    def _text(self, text: str, at: tuple[int, int], style: str) -> None:
        self._parts.append(f'<text x="{at[0]}" y="{at[1]}" {style}>{escape(text)}</text>')

    def note(self, text: str, *, at: tuple[int, int]) -> None:
        """Writes a line of small grey text that begins at a position."""
        self._text(text, at, 'fill="#555" font-size="11"')

    def arrow(
        self,
        start: str,
        end: str,
        *,
        via: Sequence[tuple[int, int]] = (),
        label: str = "",
    ) -> None:
        """Draws an arrow between two boxes, through the given points."""
        points = [self._edge(start, via[0] if via else self._center(end)), *via]
        points.append(self._edge(end, points[-1]))
        path = " ".join(f"{x},{y}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="#444" stroke-width="1.5"'
            ' marker-end="url(#head)"/>'
        )
        if label:
            (x0, y0), (x1, y1) = points[:2]
            # Above a horizontal arrow, beside a vertical one.
            left = (x0 + x1) // 2 - 3 * len(label) if y0 == y1 else x0 + 5
            self.note(label, at=(left, (y0 + y1) // 2 - 5))

    def _center(self, name: str) -> tuple[int, int]:
        left, top, right, bottom = self._boxes[name]
        return (left + right) // 2, (top + bottom) // 2

    def _edge(self, name: str, to: tuple[int, int]) -> tuple[int, int]:
        """Returns the point at which an arrow to or from `to` meets a box."""
        left, top, right, bottom = self._boxes[name]
        x, y = self._center(name)
        if left < to[0] < right:
            return to[0], bottom if to[1] > y else top
        return right if to[0] > x else left, min(max(to[1], top + 8), bottom - 8)

    def write(self, path: Path) -> None:
        """Writes the drawing as an SVG file."""
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            ' font-family="system-ui, sans-serif" font-size="12" role="img">'
            f"<title>{escape(self._title)}</title>"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0,0 8,4 0,8z" fill="#444"/>'
            "</marker></defs>"
            f'<rect width="{width}" height="{height}" fill="#fff"/>'
        )
        path.write_text("\n".join([head, *self._parts, "</svg>"]) + "\n")


def draw_eddsrn() -> Drawing:
    """Draws the paper's network with the widths of configs/eddsrn.py."""
    drawing = Drawing(1000, 600, "ED-DSRN: encoder, decoder with skips, and two heads")
    drawing.box("blurred photo", "image", at=(80, 60), text="h x w x 3")
    drawing.box("stem", "encoder", at=(230, 60), text="7x7 convolution|64 channels")
    rows = ((1, 128, "1/2", 190), (2, 256, "1/4", 320), (3, 512, "1/8", 450))
    for i, width, size, y in rows:
        text = f"pool, 3x3, residual block|{width} channels, {size} size"
        drawing.box(f"encoder {i}", "encoder", at=(230, y), text=text)
    drawing.arrow("blurred photo", "stem")
    for start, end in (("stem", "encoder 1"), ("encoder 1", "encoder 2")):
        drawing.arrow(start, end)
    drawing.arrow("encoder 2", "encoder 3")
    decoders = (
        (3, "up-convolution, + skip, ReLU|residual block, 256, 1/4", 320),
        (2, "up-convolution, + skip, ReLU|residual block, 128, 1/2", 190),
        (1, "up-convolution, + skip, ReLU|64 channels, h x w", 60),
    )
    for i, text, y in decoders:
        drawing.box(f"decoder {i}", "decoder", at=(530, y), text=text)
    drawing.arrow("encoder 3", "decoder 3", via=[(530, 450)])
    drawing.arrow("decoder 3", "decoder 2")
    drawing.arrow("decoder 2", "decoder 1")
    for start, end in (("stem", 1), ("encoder 1", 2), ("encoder 2", 3)):
        drawing.arrow(start, f"decoder {end}", label="skip: 3x3")
    text = "3 convolutions|2 up-convolutions|2 convolutions, to RGB"
    drawing.box("super-resolution head", "head", at=(830, 60), text=text)
    drawing.box("deblurring head", "head", at=(830, 220), text="3 convolutions, to RGB")
    drawing.arrow("decoder 1", "super-resolution head")
    drawing.arrow("decoder 1", "deblurring head", via=[(670, 70), (670, 220)])
    drawing.box("sr", "image", at=(830, 380), text="4h x 4w x 3|+ bicubic enlargement")
    drawing.box("deblurred", "image", at=(830, 510), text="h x w x 3|+ the photo itself")
    drawing.arrow("super-resolution head", "sr", via=[(950, 70), (950, 380)])
    drawing.arrow("deblurring head", "deblurred", via=[(715, 230), (715, 510)])
    drawing.arrow("blurred photo", "deblurred", via=[(80, 570), (830, 570)])
    drawing.note("the photo is added to both outputs", at=(300, 563))
    return drawing


def draw_half_size() -> Drawing:
    """Draws the half-size network with the widths of configs/eddsrn_half.py."""
    drawing = Drawing(1000, 510, "ED-DSRN at half size: filters, mix, trunk and heads")
    drawing.box("blurred photo", "image", at=(100, 60), text="h x w x 3")
    text = "fixed bank, computed|from a formula"
    drawing.box("inverse filters", "fixed", at=(100, 180), text=text)
    text = "3 small convolutions|on cells of 8 x 8 pixels"
    drawing.box("blur estimator", "encoder", at=(100, 310), text=text)
    drawing.box("first mix", "fixed", at=(100, 430), text="photo + shares|of the changes")
    drawing.arrow("blurred photo", "inverse filters")
    drawing.arrow("inverse filters", "blur estimator", label="energy of each change")
    drawing.arrow("blur estimator", "first mix", label="shares")
    encoders = (
        ("encoder 1", "space to depth, 3x3, block|64 channels, 1/2 size", 60),
        ("encoder 2", "pool, 3x3, block|128 channels, 1/4 size", 190),
        ("middle", "pool, energies, 3x3, block|192 channels, 1/8 size", 320),
    )
    for name, text, y in encoders:
        drawing.box(name, "encoder", at=(380, y), text=text)
    drawing.arrow("first mix", "encoder 1", via=[(255, 430), (255, 60)])
    drawing.note("photo, changes", at=(262, 410))
    drawing.note("and first mix", at=(262, 424))
    drawing.arrow("encoder 1", "encoder 2")
    drawing.arrow("encoder 2", "middle")
    drawing.box(
        "decoder 2", "decoder", at=(620, 190), text="up, + skip, block|128 channels, 1/4"
    )
    drawing.box(
        "decoder 1", "decoder", at=(620, 60), text="up, + skip, block|64 channels, 1/2"
    )
    drawing.arrow("middle", "decoder 2", via=[(620, 320)])
    drawing.arrow("decoder 2", "decoder 1")
    drawing.arrow("encoder 1", "decoder 1", label="skip")
    drawing.arrow("encoder 2", "decoder 2", label="skip")
    text = "corrected shares and a|residual for each output:|one sub-pixel convolution"
    drawing.box("heads", "head", at=(860, 60), text=text)
    drawing.arrow("decoder 1", "heads")
    drawing.box("final mixes", "fixed", at=(860, 190), text="photo + shares of changes")
    drawing.arrow("heads", "final mixes", label="shares")
    text = "4h x 4w x 3|mix, enlarged bicubically|+ residual"
    drawing.box("sr", "image", at=(860, 330), text=text)
    drawing.box("deblurred", "image", at=(860, 470), text="h x w x 3|mix + residual")
    drawing.arrow("final mixes", "sr")
    drawing.arrow("final mixes", "deblurred", via=[(745, 195), (745, 470)])
    drawing.arrow("heads", "sr", via=[(975, 70), (975, 320)])
    drawing.arrow("heads", "deblurred", via=[(975, 70), (975, 470)])
    drawing.note("residuals", at=(918, 410))
    drawing.note("photo: five more layers at the photo's size", at=(440, 440))
    drawing.note("follow decoder 1 and add to both residuals", at=(440, 456))
    return drawing


if __name__ == "__main__":
    draw_eddsrn().write(Path(__file__).with_name("eddsrn.svg"))
    draw_half_size().write(Path(__file__).with_name("half_size.svg"))
