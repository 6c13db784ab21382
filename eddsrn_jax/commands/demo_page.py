"""The web page of the command demo: its parts, and the restoring behind them."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eddsrn_jax.errors import InputError

# The outputs that the page shows.
OUTPUTS = ("sr", "deblurred")
# The most runs that may wait.
_LONGEST_QUEUE = 8
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
    """Replaces the flags in a message of the command by the words of the page."""
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
    work: Any,
    photos: Sequence[Path],
    weights: str,
    strength: float,
    is_cancelled: Callable[[], bool],
) -> Iterator[tuple[dict[str, tuple], str]]:
    """Restores photos one after the other.

    Args:
        work: see `make_page`.
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
            f"{number}. {photo.name}": show(work, photo, weights, strength),
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


def make_page(
    gr: Any,
    work: Any,
    choices: Mapping[str, str],
    examples: list[str],
    folder: str | Path,
) -> Any:
    """Builds the web page.

    Args:
        gr: gradio module, imported late because the import is slow and reads the
            environment.
        work: function that maps a file, the name of weights and a strength to the
            results of `restore_upload`.
        choices: names of the weights to choose from, by label; the first is chosen.
        examples: files to offer as examples.
        folder: folder for archives of results.
    """
    run, run_again, cancel, close = make_handlers(gr, work, folder)
    with gr.Blocks(title="ED-DSRN", analytics_enabled=False) as page:
        gr.Markdown(
            "# ED-DSRN\nUpload small photos to get two images of each: a deblurred one of"
            " the same size and a sharp one four times as large. Your photos do not leave"
            " this machine."
        )
        with gr.Row():
            with gr.Column(scale=1):
                *inputs, start, stop = _input_column(gr, choices, examples)
            with gr.Column(scale=2):
                *outputs, chosen = _result_column(gr)
        results = gr.State({})
        _, weights, strength = inputs
        events = {start.click: run, strength.input: run_again, weights.input: run_again}
        for event, function in events.items():
            event(
                function,
                inputs,
                [*outputs, chosen, results, stop],
                concurrency_limit=1,
                concurrency_id="restore",
                # While a photo is being restored, only the last change waits.
                trigger_mode="always_last",
                api_visibility="private",
            )
        private = {"queue": False, "api_visibility": "private"}
        stop.click(cancel, None, stop, **private)
        chosen.input(_chosen, [chosen, results], outputs[:4], **private)
        page.unload(close)
    return page.queue(max_size=_LONGEST_QUEUE, default_concurrency_limit=1)


def make_handlers(gr: Any, work: Any, folder: str | Path) -> tuple[Any, Any, Any, Any]:
    """Returns functions that restore photos, restore one again, cancel, and close.

    The last one is for pages that are closed or reloaded: it deletes their results.
    """
    # Sessions, one for each open page, whose runs are to stop.
    cancelled: set[str] = set()
    # Sessions of pages that are closed.
    closed: set[str] = set()
    # Folders of each session's results, which its next results replace.
    folders: dict[str, set[Path]] = {}

    def delete(session: str) -> None:
        for old in folders.pop(session, ()):
            shutil.rmtree(old, ignore_errors=True)

    def run(
        paths: list[tuple[str, Any]] | None,
        weights: str,
        strength: float,
        request: gr.Request,  # pyright: ignore[reportInvalidTypeForm]
    ) -> Iterator[tuple]:
        if not paths:
            raise gr.Error("Choose a photo first.", print_exception=False)
        session = request.session_hash
        cancelled.discard(session)
        delete(session)
        # The gallery gives each photo with a caption.
        photos = [Path(path) for path, _ in paths]
        steps = restore_all(work, photos, weights, strength, lambda: session in cancelled)
        results, note = {}, ""
        for results, note in steps:
            folders[session] = {Path(file).parent for file in _downloads(results)}
            if session in closed:
                # The page was closed while this photo was restored.
                delete(session)
                return
            yield _shown(gr, results, note, can_cancel=len(results) < len(photos))
        if session in closed:
            return
        archive = _archive(results, folder)
        folders[session] |= {Path(archive).parent} if archive else set()
        yield _shown(gr, results, note, archive=archive)

    def run_again(
        paths: list[tuple[str, Any]] | None,
        weights: str,
        strength: float,
        request: gr.Request,  # pyright: ignore[reportInvalidTypeForm]
    ) -> Iterator[tuple]:
        # Each change would restore all of several photos.
        if paths and len(paths) == 1:
            yield from run(paths, weights, strength, request)

    def cancel(request: gr.Request) -> Any:  # pyright: ignore[reportInvalidTypeForm]
        cancelled.add(request.session_hash)
        return gr.Button("Stopping after this photo", interactive=False)

    def close(request: gr.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
        closed.add(request.session_hash)
        cancelled.add(request.session_hash)
        delete(request.session_hash)

    return run, run_again, cancel, close


def _chosen(label: str, results: Mapping[str, tuple]) -> tuple:
    """Returns the sliders' and downloads' files of a chosen photo."""
    return results[label][:4]


def _downloads(results: Mapping[str, tuple]) -> list[str]:
    """Returns the files of all results; photos that failed have none."""
    return [file for _, _, *found, _ in results.values() for file in found if file]


def _archive(results: Mapping[str, tuple], folder: str | Path) -> str | None:
    """Returns an archive of several photos' results; None for a single photo."""
    files = _downloads(results)
    if len(results) < 2 or not files:
        return None
    target = Path(tempfile.mkdtemp(dir=folder), "restored.zip")
    return write_zip(files, target)


def _shown(
    gr: Any,
    results: dict[str, tuple],
    note: str,
    *,
    archive: str | None = None,
    can_cancel: bool = False,
) -> tuple:
    """Returns the values of all outputs of a run, after each photo and at its end."""
    restored = [label for label, (_, _, file, *_) in results.items() if file]
    last = results[restored[-1]][:4] if restored else (None,) * 4
    several = len(restored) > 1
    return (
        *last,
        note,
        gr.DownloadButton(value=archive, visible=archive is not None),
        gr.Dropdown(
            choices=restored, value=restored[-1] if several else None, visible=several
        ),
        results,
        gr.Button("Cancel", interactive=can_cancel),
    )


def _input_column(gr: Any, choices: Mapping[str, str], examples: list[str]) -> list[Any]:
    """Adds upload, choice of weights, strength and two buttons; returns them in order."""
    # The gallery passes uploads on as files, so that this project alone decodes them,
    # within its limits.
    upload = gr.Gallery(
        label="Photos",
        type="filepath",
        sources=["upload", "clipboard"],
        buttons=[],
        columns=2,
        height=260,
        object_fit="contain",
        elem_id="photos",
        interactive=True,
    )
    weights = gr.Radio(
        list(choices.items()), value=next(iter(choices.values())), label="Network"
    )
    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength")
    with gr.Row():
        start = gr.Button("Restore", variant="primary", min_width=80)
        stop = gr.Button("Cancel", interactive=False, min_width=80)
    gr.Examples([[[path]] for path in examples], upload, label="Try one of these")
    return [upload, weights, strength, start, stop]


def _result_column(gr: Any) -> list[Any]:
    """Adds the components that `_shown` fills.

    Returns:
        Two sliders, two downloads, a note, the download of all, and the choice of the
        photo that is shown.
    """
    note = gr.Markdown("The result appears here.", elem_id="note")
    with gr.Row():
        chosen = gr.Dropdown([], label="Show", visible=False, elem_id="chosen")
        archive = gr.DownloadButton("Download all as a ZIP file", visible=False)
    with gr.Tab("x4 super-resolved"):
        sr = _slider(gr, "Bicubic | super-resolved", "sr")
        sr_file = gr.DownloadButton("Download x4", elem_id="download-sr")
    with gr.Tab("Deblurred"):
        deblurred = _slider(gr, "Photo | deblurred", "deblurred")
        deblurred_file = gr.DownloadButton("Download deblurred")
    return [sr, deblurred, sr_file, deblurred_file, note, archive, chosen]


def _slider(gr: Any, label: str, name: str) -> Any:
    return gr.ImageSlider(
        label=label,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        max_height=640,
        elem_id=name,
    )
