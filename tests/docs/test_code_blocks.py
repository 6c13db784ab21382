"""Runs the documentation's Python blocks, and parses the flags of its shell commands.

Blocks of a page that are marked "python" run in order, as one script. A block that begins
with the name of a file is also written to that file, so that the script can import it.
Blocks marked "sh" are commands, of which only the flags are checked. Blocks without a
language are neither.
"""

import importlib.util
import re
import shlex
import sys

import pytest
from PIL import Image
from processes import QUICK, ROOT, command

pytestmark = pytest.mark.docs
# Only the environment of make docs is sure to have this package.
MarkdownIt = pytest.importorskip("markdown_it").MarkdownIt

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Scripts that train do so on small photos, with a small network and few steps.
SHORTER = {"total_steps = 2000": "total_steps = 3"}
# The resident pipeline needs no TensorFlow, which takes seconds to import.
PRELUDE = """
from pathlib import Path
from configs import quickstart
from eddsrn_jax.compiler import enable_compilation_cache
from tiny import tiny_config
enable_compilation_cache()
quickstart.get_config = lambda: tiny_config(
    Path("photos"), network="EDDSRN", **{"data.pipeline": "resident"}
)
"""


def blocks(page, language):
    """Returns the fenced blocks of a page that are marked with a language."""
    tokens = MarkdownIt().parse(page.read_text())
    return [x.content for x in tokens if x.type == "fence" and x.info == language]


def named(page):
    return str(page.relative_to(ROOT))


def absent(block):
    """Returns whether a block needs PyTorch or ONNX Runtime, which is not installed."""
    needed = {"import torch": "torch", "onnx": "onnxruntime"}
    return any(
        text in block and importlib.util.find_spec(module) is None
        for text, module in needed.items()
    )


def commands():
    """Yields the commands of all pages as the page's name and a list of words."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield pytest.param(words, id=f"{named(page)}: {' '.join(words)}")


@pytest.mark.parametrize("words", [*commands()])
def test_flags_of_commands_can_be_parsed(words, monkeypatch):
    if words[0] == "python":
        name, arguments = words[1].removesuffix(".py"), words[2:]
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] == "eddsrn"
        name, arguments = words[1], words[2:]
    # Paths such as configs/eddsrn.py begin at the repository.
    monkeypatch.chdir(ROOT)
    module = importlib.reload(importlib.import_module(f"eddsrn_jax.commands.{name}"))
    # ml_collections looks for the flags of a config's values here.
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    _, *rest = module.FLAGS(sys.argv)
    assert bool(rest) == (name == "restore")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=named
)
def test_python_blocks_run(page, tmp_path, photo_folder):
    for name in ("photo.jpg", "photo_gray.jpg"):
        mode = "L" if "gray" in name else "RGB"
        Image.open(photo_folder / "photo0.png").convert(mode).save(tmp_path / name)
    parts = [part for part in blocks(page, "python") if not absent(part)]
    for long, short in SHORTER.items():
        parts = [part.replace(long, short) for part in parts]
    for part in parts:
        if name := re.match(r"# (\w+\.py)\n", part):
            (tmp_path / name[1]).write_text(part)
    source = "\n".join(parts)
    script = tmp_path / "page.py"
    script.write_text((PRELUDE if "quickstart" in source else "") + source)
    path = f"{ROOT}:{ROOT / 'tests'}"
    run = command(script, cwd=tmp_path, PYTHONPATH=path, **QUICK)
    _, errors = run.communicate()
    assert run.returncode == 0, errors


def test_every_page_has_one_title_and_a_reader():
    for page in PAGES[1:]:
        tokens = MarkdownIt().parse(page.read_text())
        titles = [x for x in tokens if x.type == "heading_open" and x.tag == "h1"]
        assert len(titles) == 1, page
        text = " ".join(page.read_text().split())
        assert "This page is for" in text or "This site is for" in text, page
