"""Reads the size and the bit depth from the header of a JPEG XL file.

Source: ISO/IEC 18181-1, SizeHeader, ImageMetadata and BitDepth.
"""

from eddsrn_jax.errors import InputError

_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def size_and_bits(file: bytes) -> tuple[int, int, int]:
    """Returns height, width and bits per channel; the size is not turned upright.

    Raises:
        InputError: the file has no codestream, or is an animation.
    """
    bits = _Bits(_codestream(file))
    height, width = _size(bits)
    # All fields have their default values.
    if bits.read(1):
        return height, width, 8
    if bits.read(1):
        bits.read(3)  # orientation
        if bits.read(1):
            _size(bits)  # intrinsic size
        has_preview, is_animation = bits.read(1), bits.read(1)
        # The decoder would decode all its pictures at once.
        if is_animation:
            raise InputError("is an animation, which cannot be read")
        if has_preview:
            # Its fields would have to be skipped.
            return height, width, 16
    is_float = bits.read(1)
    depth = bits.choose(*((None, x) for x in (8, 10, 12)), (6, 1))
    return height, width, 16 if is_float else min(max(depth, 8), 16)


def _codestream(file: bytes) -> bytes:
    """Returns the beginning of the codestream, which may be in a box of a container."""
    if file.startswith(b"\xff\x0a"):
        return file[2:64]
    position = 0
    while position + 8 <= len(file):
        size = int.from_bytes(file[position : position + 4], "big")
        kind, head = file[position + 4 : position + 8], 8
        if size == 1:
            size, head = int.from_bytes(file[position + 8 : position + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = position + head + (4 if kind == b"jxlp" else 0)
            return file[start + 2 : start + 64]
        if size < head:
            break
        position += size
    raise InputError("is JPEG XL without a codestream, which cannot be read")


class _Bits:
    """Reads bits, the lowest of each byte first."""

    def __init__(self, content: bytes):
        self._value = int.from_bytes(content, "little")

    def read(self, count: int) -> int:
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def choose(self, *choices: tuple[int | None, int]) -> int:
        """Reads two bits that choose a number: of some bits plus an offset, or fixed."""
        count, offset = choices[self.read(2)]
        return offset + (self.read(count) if count else 0)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.read(1)

    def side() -> int:
        if small:
            return 8 * (bits.read(5) + 1)
        return bits.choose((9, 1), (13, 1), (18, 1), (30, 1))

    height = side()
    ratio = bits.read(3)
    if not ratio:
        return height, side()
    numerator, denominator = _RATIOS[ratio]
    return height, height * numerator // denominator
