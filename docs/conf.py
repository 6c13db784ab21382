"""Settings of the site that make docs builds."""

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# The project itself need not be installed.
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
# The notebook, and the command that it starts, import the project from here.
os.environ["PYTHONPATH"] = str(ROOT)

import eddsrn_jax  # noqa: E402

project = "eddsrn_jax"
author = copyright = "the eddsrn_jax contributors"
version = release = eddsrn_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "generated",
]
exclude_patterns = ["build"]
suppress_warnings = [
    # The model card describes three networks, each under a heading of the first level.
    "myst.header",
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# The notebook is run at each build, and an error in it is an error of the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_execution_show_tb = True
# stderr has only log messages and progress bars.
nb_output_stderr = "remove"
nb_merge_streams = True
# Indented blocks are shell commands, which need no colours.
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autoclass_content = "both"
default_role = "code"
# Names of flags begin with two hyphens, and texts in quotes are values.
smartquotes = False
napoleon_custom_sections = [("Source", "notes_style"), ("Differs", "notes_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = "eddsrn_jax"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "dark_css_variables": {"font-stack": "system-ui, sans-serif"},
}

# Links in included files, as they are written there, and on the site.
_LINKS = {
    "../../docs/results.md": "results.md",
    "../README.md": "index.md",
}


def _replace_links(app: Any, path: Path, parent: str, content: list[str]) -> None:
    for written, shown in _LINKS.items():
        content[0] = content[0].replace(f"({written})", f"({shown})")


def _without_flax_fields(
    app: Any, what: str, name: str, item: Any, options: Any, signature: str, returns: str
) -> tuple[str, str]:
    """Removes the two fields that Flax adds to every module from its signature."""
    for field in ("parent", "name"):
        start = (signature or "").find(f", {field}=")
        if what == "class" and start > 0 and "Sentinel" in signature:
            signature = f"{signature[:start]})"
    return signature, returns


def setup(app: Any) -> None:
    """Connects the functions above to the build."""
    app.connect("include-read", _replace_links)
    app.connect("autodoc-process-signature", _without_flax_fields)
