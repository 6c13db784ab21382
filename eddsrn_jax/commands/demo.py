"""Serves a web page that restores photos: eddsrn demo, or make demo in a clone.

The server listens on 127.0.0.1 only and sends nothing to other machines. It needs the
package's extra "demo".
"""

import concurrent.futures
import functools
import os
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.demo_page import make_page
from eddsrn_jax.commands.demo_results import (
    OUTPUTS,
    restore_upload,
    show,
    write_examples,
)
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

# The largest upload.
_LARGEST_UPLOAD = "50mb"
_STYLE = ".gradio-container { max-width: 1100px; margin: auto; }"


def _choices() -> dict[str, str]:
    """Returns the weights to choose from, by label; those of the flags come first."""
    from eddsrn_jax.checkpoints.found_weights import PURPOSES

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
            # Both flags together are an error.
            return Restorer.from_pretrained(FLAGS.weights, workdir=name, outputs=OUTPUTS)
        return Restorer.from_pretrained(weights=name, outputs=OUTPUTS)

    # Wrong flags fail here, before the page is served.
    restorer_for(next(iter(choices.values())))
    # Python does not exit cleanly while a Gradio thread runs JAX. This executor's thread
    # is joined first.
    worker = concurrent.futures.ThreadPoolExecutor(1)

    def work(path: Path, weights: str, strength: float) -> tuple[dict[str, Path], str]:
        return restore_upload(
            path,
            restorer_for(weights),
            folder,
            strength=strength,
            max_input_pixels=1e6 * _MAX_INPUT.value,
        )

    def show_photo(*arguments: Any) -> tuple:
        try:
            shown = worker.submit(show, work, *arguments)
        except RuntimeError:
            # The server is stopping.
            return (None,) * 4 + ("",)
        return shown.result()

    # Uploads and results are deleted with this folder when the server stops. On Windows
    # those that are being downloaded stay.
    temporary = tempfile.TemporaryDirectory(
        prefix="eddsrn-demo-", ignore_cleanup_errors=True
    )
    with temporary as folder, worker:
        gr = _import_gradio(folder)
        examples = write_examples(Path(folder, "examples"))
        page = make_page(gr, show_photo, choices, examples, folder)
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
