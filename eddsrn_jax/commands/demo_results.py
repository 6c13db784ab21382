"""Restores photos for the web page of the command demo; knows nothing of the page."""

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eddsrn_jax.errors import InputError

# The outputs that the page shows.
OUTPUTS = ("sr", "deblurred")
# The page's words for messages of the restore command, as regular expressions.
_PAGE_WORDS = {
    r"--max_(?:in|out)put_megapixels=(\S+)": r"the \1 that this page accepts",
    r" \(a lower --strength helps\)": "; a lower strength helps",
    r"; choose another name with --output": "",
    r"--(\w+)": r"\1",
}
_EXAMPLE_SIGMAS = {"astronaut": 1.8, "chelsea": 1.3}


def restore_upload(
    path: Path,
    restorer: Any,
    folder: str | Path,
    *,
    strength: float,
    max_input_pixels: float,
) -> tuple[dict[str, Path], str]:
    """Restores a file as restore.py does, into a new subfolder of `folder`.

    Returns:
        Files of both results, by output; and a Markdown note with sizes, time, the
        estimated blur and warnings.

    Raises:
        InputError: the file cannot be restored. The message names it without its folder.
    """
    from eddsrn_jax.restoration.batch import restore_files
    from eddsrn_jax.restoration.jobs import Limits, Placing

    (job,) = restore_files(
        [path],
        lambda: restorer,
        placing=Placing(OUTPUTS, folder=Path(tempfile.mkdtemp(dir=folder))),
        limits=Limits(input_pixels=max_input_pixels),
        strength=strength,
    )
    if job.error:
        raise InputError(f"{path.name}: {job.error}")
    photo, header = job.known_header, job.target_header("sr")
    lines = [
        f"**{_plain_markdown(path.name)}**: {photo.width} x {photo.height} became"
        f" {header.width} x {header.height} pixels in {job.seconds:.1f} seconds."
    ]
    if job.sigma is not None:
        lines[0] += f" Its blur is estimated as sigma {job.sigma:.1f} pixels."
    notes = [_plain_markdown(in_page_words(x)) for x in job.warnings]
    return job.targets, "\n\n".join(lines + [f"Note: {x}." for x in notes])


def before(path: Path, result: Path) -> Path:
    """Enlarges a photo bicubically to the size of its result, for comparison.

    The file is written beside the result. Like the result it has the photo's colours,
    profile, depth and transparency.
    """
    from eddsrn_jax.images.pictures import read_header, read_picture, write_picture
    from eddsrn_jax.restoration.resizing import enlarged
    from eddsrn_jax.restoration.transparency import fill_hidden

    pixels, metadata = read_picture(path)
    pixels = fill_hidden(pixels)
    scale = read_header(result).height // len(pixels)
    if scale > 1:
        pixels = enlarged(pixels, scale)
    target = result.with_name(f"{result.stem}_before.png")
    write_picture(target, pixels, metadata)
    return target


def show(work: Any, photo: Path, weights: str, strength: float) -> tuple:
    """Restores a photo for the page.

    Args:
        work: function that maps the other arguments to the results of `restore_upload`.
        photo: file of the photo.
        weights: name of the weights.
        strength: see `Restorer.__call__`.

    Returns:
        The pair of files of each slider, sr and deblurred; the file of each download; and
        a Markdown note. After an error, the note tells it and the others are None.
    """
    try:
        results, note = work(photo, weights, strength)
    except InputError as error:
        message = _plain_markdown(in_page_words(str(error)))
        return (None,) * 4 + (f"**Not restored.** {message}",)
    sliders = [(str(before(photo, file)), str(file)) for file in results.values()]
    return (*sliders, *(str(file) for file in results.values()), note)


def in_page_words(message: str) -> str:
    """Replaces the flags of `restore` in a message by the wording of the page."""
    for flag, words in _PAGE_WORDS.items():
        message = re.sub(flag, words, message)
    return message


def _plain_markdown(text: str) -> str:
    """Escapes the characters that Markdown would format."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)


def write_examples(folder: Path) -> list[str]:
    """Writes small blurry versions of the two bundled photos kept for validation."""
    from eddsrn_jax.data.sources import open_split
    from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
    from eddsrn_jax.images import write_image

    paths = []
    for file in open_split("bundled").validation.files():
        hr = cut_to_scale(file.read())
        name = Path(file.name).stem
        _, lr_blur = degrade_photo(hr, _EXAMPLE_SIGMAS[name], max_sigma=2.0)
        paths.append(folder / f"{name}.png")
        write_image(paths[-1], lr_blur)
    return [str(path) for path in paths]


def write_zip(files: Sequence[str], target: Path) -> str:
    """Writes files to a ZIP archive; numbers those of a name that is taken."""
    names: set[str] = set()
    # The pictures are compressed already.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in map(Path, files):
            name, number = path.name, 1
            while name in names:
                number += 1
                name = f"{path.stem}-{number}{path.suffix}"
            names.add(name)
            archive.write(path, name)
    return str(target)


def restore_all(
    show_photo: Any,
    photos: Sequence[Path],
    weights: str,
    strength: float,
    is_cancelled: Callable[[], bool],
) -> Iterator[tuple[dict[str, tuple], str]]:
    """Restores photos one after the other.

    Args:
        show_photo: see `make_page`.
        photos: files of the photos.
        weights, strength: see `show`.
        is_cancelled: function that says, after each photo, whether to stop.

    Yields:
        The results of `show` so far, by labels such as "1. photo.png"; and a Markdown
        note about all photos. The first ones come before the first photo is restored.
    """
    results: dict[str, tuple] = {}
    if len(photos) > 1:
        yield {}, f"Restoring photo 1 of {len(photos)}."
    for number, photo in enumerate(photos, 1):
        results = {
            **results,
            f"{number}. {photo.name}": show_photo(photo, weights, strength),
        }
        notes = [note for *_, note in results.values()]
        left = len(photos) - number
        stops = left > 0 and is_cancelled()
        if stops:
            notes.append(
                f"**Cancelled.** {left} of {len(photos)} photos are not restored."
            )
        elif left:
            notes.append(f"Restoring photo {number + 1} of {len(photos)}.")
        elif len(photos) > 1:
            notes.append("After a change of network or strength, press Restore again.")
        yield results, "\n\n".join(notes)
        if stops:
            return
