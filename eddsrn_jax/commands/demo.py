"""Serves a web page that restores photos: make demo, or python -m eddsrn_jax demo.

The server listens on 127.0.0.1 only and sends nothing to other machines. It needs the
package's extra "demo".
"""

import concurrent.futures
import functools
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.network_flags import define_network_flags, import_own_networks
from eddsrn_jax.errors import InputError

FLAGS = flags.FlagValues()
define_network_flags(FLAGS)
_PORT = flags.DEFINE_integer(
    "port",
    None,
    "Port on 127.0.0.1. Default: the first free one from 7860 on.",
    flag_values=FLAGS,
)
_MAX_INPUT = flags.DEFINE_float(
    "max_input_megapixels",
    2,
    "Refuse photos of more than this many megapixels.",
    lower_bound=0,
    flag_values=FLAGS,
)
_OPEN = flags.DEFINE_boolean(
    "open", False, "Open the page in a browser.", flag_values=FLAGS
)

# The largest upload, and the most photos that may wait.
_LARGEST_UPLOAD = "50mb"
_LONGEST_QUEUE = 8
# The page's words for messages of the restore command, as regular expressions.
_PAGE_WORDS = {
    r"--max_(?:in|out)put_megapixels=(\S+)": r"the \1 that this page accepts",
    r" \(a lower --strength helps\)": "; a lower strength helps",
    r"; choose another name with --output": "",
    r"--(\w+)": r"\1",
}
_EXAMPLE_SIGMAS = {"astronaut": 1.8, "chelsea": 1.3}
_STYLE = ".gradio-container { max-width: 1100px; margin: auto; }"


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
        placing=Placing(("sr", "deblurred"), folder=Path(tempfile.mkdtemp(dir=folder))),
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
    from eddsrn_jax.ops.resize import bicubic_upscale
    from eddsrn_jax.restoration.transparency import fill_hidden

    pixels, metadata = read_picture(path)
    pixels = fill_hidden(pixels)
    scale = read_header(result).height // len(pixels)
    if scale > 1:
        peak = np.iinfo(pixels.dtype).max
        large = bicubic_upscale(pixels[None].astype(np.float32), scale)[0]
        pixels = np.floor(np.clip(large, 0, peak) + 0.5).astype(pixels.dtype)
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
    """Returns a message of the command without names of flags, which the page lacks."""
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


def make_page(gr: Any, work: Any, choices: Mapping[str, str], examples: list[str]) -> Any:
    """Builds the web page.

    Args:
        gr: gradio module, imported late because the import is slow and reads the
            environment.
        work: function that maps a file, the name of weights and a strength to the
            results of `restore_upload`.
        choices: names of the weights to choose from, by label; the first is chosen.
        examples: files to offer as examples.
    """

    # Uploads are passed on as files, so that this project alone decodes them, within its
    # limits. The class itself is patched, as Gradio makes new components from instances
    # and derived classes.
    gr.Image.preprocess = lambda _, file: file and file.path

    def start_run(path: str | None, weights: str, strength: float) -> tuple:
        if path is None:
            raise gr.Error("Choose a photo first.", print_exception=False)
        return run(path, weights, strength)

    def run(path: str | None, weights: str, strength: float) -> tuple:
        if path is None:
            return (gr.skip(),) * 5
        return show(work, Path(path), weights, strength)

    with gr.Blocks(title="ED-DSRN", analytics_enabled=False) as page:
        gr.Markdown(
            "# ED-DSRN\nUpload a small photo to get two images: a deblurred one of"
            " the same size and a sharp one four times as large. Your photos do not leave"
            " this machine."
        )
        with gr.Row():
            with gr.Column(scale=1):
                *inputs, start = _input_column(gr, choices, examples)
            with gr.Column(scale=2):
                outputs = _result_column(gr)
        _, weights, strength = inputs
        events = {start.click: start_run, strength.input: run, weights.input: run}
        for event, function in events.items():
            event(
                function,
                inputs,
                outputs,
                concurrency_limit=1,
                concurrency_id="restore",
                # While a photo is being restored, only the last change waits.
                trigger_mode="always_last",
                api_visibility="private",
            )
    return page.queue(max_size=_LONGEST_QUEUE, default_concurrency_limit=1)


def _input_column(gr: Any, choices: Mapping[str, str], examples: list[str]) -> list[Any]:
    """Adds upload, choice of weights, strength and button; returns them in this order."""
    upload = gr.Image(
        label="Photo", sources=["upload", "clipboard"], buttons=[], height=260
    )
    weights = gr.Radio(
        list(choices.items()), value=next(iter(choices.values())), label="Network"
    )
    strength = gr.Slider(0, 1, 1, step=0.05, label="Strength")
    start = gr.Button("Restore", variant="primary")
    gr.Examples(examples, upload, label="Try one of these")
    return [upload, weights, strength, start]


def _result_column(gr: Any) -> list[Any]:
    """Adds what `show` fills: two sliders, two downloads and a note, in this order."""
    note = gr.Markdown("The result appears here.", elem_id="note")
    with gr.Tab("x4 super-resolved"):
        sr = _slider(gr, "Bicubic | super-resolved", "sr")
        sr_file = gr.DownloadButton("Download x4", elem_id="download-sr")
    with gr.Tab("Deblurred"):
        deblurred = _slider(gr, "Photo | deblurred", "deblurred")
        deblurred_file = gr.DownloadButton("Download deblurred")
    return [sr, deblurred, sr_file, deblurred_file, note]


def _slider(gr: Any, label: str, name: str) -> Any:
    return gr.ImageSlider(
        label=label,
        format="png",
        interactive=False,
        buttons=["fullscreen"],
        max_height=640,
        elem_id=name,
    )


def _choices() -> dict[str, str]:
    """Returns the weights to choose from, by label; those of the flags come first."""
    from eddsrn_jax.checkpoints.weights import PURPOSES

    choices = {purpose: name for name, purpose in PURPOSES.items()}
    if own := FLAGS.workdir or (FLAGS.weights not in PURPOSES and FLAGS.weights):
        return {own: own, **choices}
    if FLAGS.weights:
        return {PURPOSES[FLAGS.weights]: FLAGS.weights, **choices}
    return choices


def _import_gradio(folder: str) -> Any:
    """Imports Gradio, with settings that it reads from the environment.

    Args:
        folder: folder for uploads.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ["GRADIO_TEMP_DIR"] = folder
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # At launch Gradio requests its own URL, which a proxy cannot reach.
    proxied = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1"]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, proxied))
    try:
        import gradio
    except ImportError as error:
        raise InputError(
            f'the web page needs Gradio ({error}); run pip install "eddsrn_jax[demo]"'
        ) from error
    return gradio


def main() -> None:
    """Serves the page until it is stopped."""
    from eddsrn_jax.restoration.restorer import Restorer

    import_own_networks(FLAGS)
    choices = _choices()

    @functools.cache
    def restorer_for(name: str) -> Restorer:
        if name == FLAGS.workdir:
            return Restorer.from_pretrained(workdir=name, weights=FLAGS.weights)
        return Restorer.from_pretrained(weights=name)

    # Wrong flags fail here, before the page is served.
    restorer_for(next(iter(choices.values())))
    # Python does not exit cleanly while a Gradio thread runs JAX. This executor's thread
    # is joined first.
    worker = concurrent.futures.ThreadPoolExecutor(1)

    def work(path: Path, weights: str, strength: float) -> tuple[dict[str, Path], str]:
        def restore() -> tuple[dict[str, Path], str]:
            return restore_upload(
                path,
                restorer_for(weights),
                folder,
                strength=strength,
                max_input_pixels=1e6 * _MAX_INPUT.value,
            )

        return worker.submit(restore).result()

    # Uploads and results are deleted with this folder when the server stops.
    with tempfile.TemporaryDirectory(prefix="eddsrn-demo-") as folder, worker:
        gr = _import_gradio(folder)
        examples = write_examples(Path(folder, "examples"))
        page = make_page(gr, work, choices, examples)
        print(f"{_launch(gr, page, folder)} (press Ctrl-C to stop)", flush=True)
        page.block_thread()


def _launch(gr: Any, page: Any, folder: str) -> str:
    """Serves the page in the background and returns its URL."""
    *_, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=_PORT.value,
        share=False,
        inbrowser=_OPEN.value,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=_LARGEST_UPLOAD,
        allowed_paths=[folder],
        footer_links=[],
        ssr_mode=False,
        # Other fonts would be requested from the web.
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),
        css=_STYLE,
    )
    return url


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS)
