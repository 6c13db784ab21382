"""From photos to uint8 crops: sources, the pack, the crop plan, the pipelines."""

import sys

# Library of the pipeline "stream". TensorFlow has no build for Python 3.14.
STREAMING_LIBRARY = "tensorflow" if sys.version_info < (3, 14) else "grain"
