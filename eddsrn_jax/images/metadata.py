"""Reads and adapts the metadata of image files: colour, EXIF, XMP, text, resolution."""

import contextlib
import dataclasses
import io
import re
import struct

from PIL import ExifTags, Image, ImageCms

from eddsrn_jax.images.photo import ORIENTATION, SIDEWAYS, Photo, dots_per_inch

# Tags that describe the photo rather than its file: description, make, model,
# orientation, software, date, artist, host, copyright, the EXIF and GPS directories, and
# the tags that Windows adds.
_KEPT_TAGS = {
    *(0x010E, 0x010F, 0x0110, 0x0112, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298),
    *(0x8769, 0x8825, 0x4746, 0x4749, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
}
_EXIF_SIZE = (0xA002, 0xA003)
_ORIENTATION_IN_XMP = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|>\s*))[2-8]""")
# The attribute that announces XMP of more than 64 kB, in segments of its own. The space
# before it is not part of the pattern: in long runs of spaces, the search would take time
# that grows with the square of their length.
_EXTENDED_XMP = re.compile(rb"""xmpNote:HasExtendedXMP\s*=\s*(?:"[^"]*"|'[^']*')""")
# Marks of gain maps and of other images in a file, in XMP.
_GAIN_MAPS = (b"hdrgm:", b"HDRGainMap")
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496"
# The chunks gAMA and cHRM of sRGB, which every program assumes without them.
_SRGB_CHUNKS = (
    (b"gAMA", struct.pack(">I", 45455)),
    (
        b"cHRM",
        struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    ),
)
_DAMAGED_EXIF = ("corrupt exif", "truncated file read")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata of a photo; None where the file has none.

    Attributes:
        icc: colour profile of the decoded pixels.
        exif: EXIF data in Pillow's form, which starts with "Exif\\0\\0"; the orientation
            is upright.
        dpi: horizontal and vertical dots per inch.
        xmp: XMP packet; its orientation is upright.
        texts: comments and other texts, pairs of key and text.
        colour: PNG chunks that describe the colours, pairs of kind and content.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    colour: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def special_colour(self) -> tuple[tuple[bytes, bytes], ...]:
        """The colour chunks that change the colours, unlike those of sRGB."""
        kinds = dict(self.colour)
        # These two take precedence over gamma and primaries.
        ruled = self.icc or b"sRGB" in kinds or b"cICP" in kinds
        weak = (b"sRGB", b"gAMA", b"cHRM") if ruled else (b"sRGB",)
        return tuple(
            chunk
            for chunk in self.colour
            if chunk[0] not in weak and chunk not in _SRGB_CHUNKS
        )


def read_metadata(photo: Photo, icc: bytes | None, messages: list[str]) -> Metadata:
    """Returns the metadata of an open photo, apart from EXIF.

    Args:
        photo: open photo.
        icc: colour profile of its pixels.
        messages: list to which messages about losses are appended.
    """
    xmp = photo.info.get("xmp")
    if _has_gain_map(photo, xmp or b""):
        # The fields of XMP describe a gain map that the result lacks.
        messages.append(f"the HDR gain map {'and XMP are' if xmp else 'is'} lost")
        xmp = None
    *parts, rest = _EXTENDED_XMP.split(xmp or b"")
    if parts:
        messages.append("extended XMP is not kept")
        xmp = b"".join([*(part.rstrip() for part in parts), rest])
    return Metadata(
        icc,
        dpi=resolution(photo),
        xmp=xmp and _ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp),
        texts=tuple(photo.info.get("texts") or ()),
        colour=tuple(photo.info.get("colour") or ()),
    )


def _has_gain_map(photo: Photo, xmp: bytes) -> bool:
    if any(mark in xmp for mark in _GAIN_MAPS):
        return True
    if photo.kind != "JPEG":
        return False
    position = photo.stream.tell()
    photo.stream.seek(0)
    head = photo.stream.read(2**18)
    photo.stream.seek(position)
    return _ISO_GAIN_MAP in head


def damages_exif(warning: object) -> bool:
    """Returns whether a library's warning says that EXIF data is damaged."""
    return any(mark in str(warning).lower() for mark in _DAMAGED_EXIF)


def icc_profile(photo: Photo) -> bytes | None:
    """Returns the colour profile, or None if it is missing or truncated."""
    icc = photo.info.get("icc_profile")
    # A profile's header alone has 128 bytes.
    return icc if isinstance(icc, bytes) and len(icc) >= 128 else None


def describes(icc: bytes, channels: int, *, strictly: bool) -> bool:
    """Returns whether a colour profile suits pixels with a number of channels.

    Args:
        icc: colour profile.
        channels: number of channels; one or two are gray.
        strictly: whether gray pixels need a profile of gray.
    """
    space = icc[16:20]
    if channels > 2:
        return space == b"RGB "
    # Gray pixels with an RGB profile are common and harmless.
    return space == b"GRAY" or (space == b"RGB " and not strictly)


def cmyk_to_srgb(
    photo: Photo, icc: bytes | None, messages: list[str]
) -> tuple[Photo, bytes | None]:
    """Converts CMYK to sRGB by the embedded profile, if it is usable.

    Without a usable profile the photo is unchanged, and `decode` converts it to RGB.

    Args:
        photo: open photo of mode CMYK.
        icc: colour profile of the photo, or None.
        messages: list to which messages about the conversion are appended.

    Returns:
        The photo and the colour profile of its pixels.
    """
    if icc and photo.image:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        try:
            image = ImageCms.profileToProfile(
                photo.image, io.BytesIO(icc), srgb, outputMode="RGB"
            )
        except ImageCms.PyCMSError as error:
            messages.append(f"CMYK profile not used: {one_line(error)}")
        else:
            messages.append("CMYK converted to sRGB by the embedded profile")
            return dataclasses.replace(photo, image=image), srgb.tobytes()
    messages.append("CMYK converted to RGB without a profile: colours may differ")
    return photo, None


def one_line(message: object) -> str:
    """Returns a message's text without line breaks."""
    return " ".join(str(message).split())


def resolution(photo: Photo) -> tuple[float, float] | None:
    """Returns horizontal and vertical dots per inch of the upright photo.

    None if they are missing or invalid.
    """
    dpi = photo.info.get("dpi") or dots_per_inch(photo.exif) or ()
    with contextlib.suppress(TypeError, ValueError, ZeroDivisionError):
        x, y = (float(value) for value in dpi)
        if photo.exif.get(ORIENTATION) in SIDEWAYS:
            x, y = y, x
        # JPEG can hold this range; values beyond it are errors in the file.
        if 1 <= x <= 65535 and 1 <= y <= 65535:
            return x, y
    return None


def upright_exif(exif: Image.Exif, size: tuple[int, int] | None = None) -> Image.Exif:
    """Returns the tags that describe the photo, with an upright orientation.

    Tags that describe its file are dropped. If the tags include the photo's width and
    height, they are set to `size`, (width, height).
    """
    kept = Image.Exif()
    kept.endian = "<"
    for tag in sorted(_KEPT_TAGS & set(exif)):
        value = exif[tag]
        if tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            value = {key: _writable(x) for key, x in exif.get_ifd(tag).items()}
            if ExifTags.IFD.Interop in value:
                value[ExifTags.IFD.Interop] = exif.get_ifd(ExifTags.IFD.Interop)
            if size and value.keys() >= set(_EXIF_SIZE):
                value |= dict(zip(_EXIF_SIZE, size, strict=True))
        if value:
            kept[tag] = 1 if tag == ExifTags.Base.Orientation else _writable(value)
    return kept


class _Latin1(str):
    """Text that Pillow writes as Latin-1, as it reads it; otherwise it writes ASCII."""

    def encode(self, encoding: str = "latin-1", errors: str = "replace") -> bytes:
        return super().encode("latin-1", "replace")


def _writable(value: object) -> object:
    return _Latin1(value) if isinstance(value, str) else value
