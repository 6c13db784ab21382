"""From photos to uint8 crops: sources, the pack, the crop plan, the pipelines."""

import importlib.util
import sys


def _streaming_library() -> str:
    """Returns the library of the pipeline "stream": TensorFlow, where it can be had.

    TensorFlow has no build for Python 3.14. Elsewhere grain takes its place if it is
    installed and TensorFlow is not.
    """
    installed = {x for x in ("tensorflow", "grain") if importlib.util.find_spec(x)}
    if sys.version_info >= (3, 14) or installed == {"grain"}:
        return "grain"
    return "tensorflow"


STREAMING_LIBRARY = _streaming_library()
