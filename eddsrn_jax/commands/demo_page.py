"""The web page of the command demo: its parts, and what they do."""

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eddsrn_jax.commands.demo_results import restore_all, write_zip

# The most runs that may wait.
_LONGEST_QUEUE = 8
# Results that are no longer shown stay so long, for downloads under way.
_SECONDS_TO_DELETION = 10


def make_page(
    gr: Any,
    show_photo: Any,
    choices: Mapping[str, str],
    examples: list[str],
    folder: str | Path,
) -> Any:
    """Builds the web page.

    Args:
        gr: gradio module, imported late because the import is slow and reads the
            environment.
        show_photo: function that maps a file, the name of weights and a strength to the
            results of `show`.
        choices: names of the weights to choose from, by label; the first is chosen.
        examples: files to offer as examples.
        folder: folder for archives of results.
    """
    run, run_again, cancel, close = make_handlers(gr, show_photo, folder)
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


class _Sessions:
    """State of the sessions; each open page has one.

    Attributes:
        cancelled: sessions whose runs are to stop.
        closed: sessions of pages that are closed.
        folders: folders of each session's results, which its next results replace.
    """

    def __init__(self) -> None:
        self.cancelled: set[str] = set()
        self.closed: set[str] = set()
        self.folders: dict[str, set[Path]] = {}

    def delete_results(self, session: str) -> None:
        """Deletes a session's results, but not while the page may still fetch them."""
        self.delete(self.folders.pop(session, ()))

    def delete(self, folders: Iterable[Path]) -> None:
        """Deletes folders once downloads from them can have ended."""
        for folder in folders:
            timer = threading.Timer(_SECONDS_TO_DELETION, shutil.rmtree, (folder, True))
            # The server can stop before: the folder of all results is deleted then.
            timer.daemon = True
            timer.start()

    def close(self, session: str) -> None:
        self.closed.add(session)
        self.cancelled.add(session)
        self.delete_results(session)


def make_handlers(
    gr: Any, show_photo: Any, folder: str | Path
) -> tuple[Any, Any, Any, Any]:
    """Returns functions that restore photos, restore one again, cancel, and close.

    The last one is for pages that are closed or reloaded: it deletes their results.
    """
    sessions = _Sessions()

    def run(
        paths: list[tuple[str, Any]] | None,
        weights: str,
        strength: float,
        request: gr.Request,  # pyright: ignore[reportInvalidTypeForm]
    ) -> Iterator[tuple]:
        if not paths:
            raise gr.Error("Choose a photo first.", print_exception=False)
        session = request.session_hash
        # A page that lost its connection for a while is open after all.
        sessions.closed.discard(session)
        sessions.cancelled.discard(session)
        earlier = sessions.folders.get(session, set())
        # The gallery gives each photo with a caption.
        photos = [Path(path) for path, _ in paths]
        steps = restore_all(
            show_photo, photos, weights, strength, lambda: session in sessions.cancelled
        )
        results, note = {}, ""
        for results, note in steps:
            made = {Path(file).parent for file in _downloads(results)}
            sessions.folders[session] = earlier | made
            if session in sessions.closed:
                break
            yield _shown(gr, results, note, can_cancel=len(results) < len(photos))
            # The page shows these results from now on.
            sessions.delete(earlier)
            earlier = set()
        archive = None if session in sessions.closed else _archive(results, folder)
        made = _downloads(results) + ([archive] if archive else [])
        sessions.folders[session] = earlier | {Path(file).parent for file in made}
        if session in sessions.closed:
            # The page was closed while a photo was restored or the archive written.
            sessions.delete_results(session)
            return
        yield _shown(gr, results, note, archive=archive)

    def run_again(
        paths: list[tuple[str, Any]] | None,
        weights: str,
        strength: float,
        request: gr.Request,  # pyright: ignore[reportInvalidTypeForm]
    ) -> Iterator[tuple]:
        # Only for a single photo: of several, all would be restored again at each change.
        if paths and len(paths) == 1:
            yield from run(paths, weights, strength, request)

    def cancel(request: gr.Request) -> Any:  # pyright: ignore[reportInvalidTypeForm]
        sessions.cancelled.add(request.session_hash)
        return gr.Button("Stopping after this photo", interactive=False)

    def close(request: gr.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
        sessions.close(request.session_hash)

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
