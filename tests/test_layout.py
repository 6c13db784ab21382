"""Tests that the package's folders import each other in one direction only."""

import ast

import pytest
from processes import ROOT

PACKAGE = ROOT / "eddsrn_jax"
# Each folder may import from those before it, and from the modules beside the folders.
FOLDERS = (
    "ops",
    "images",
    "models",
    "data",
    "checkpoints",
    "restoration",
    "evaluation",
    "training",
    "commands",
)
COMMANDS = ("__main__",)


def imported(path):
    """Returns the first name below the package of each module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for package, *names in (module.split(".") for module in modules):
            if package == PACKAGE.name:
                yield from names[:1]


def test_every_folder_of_modules_has_a_place_in_the_order():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_imports_only_from_those_before_it(folder):
    later = {*FOLDERS[FOLDERS.index(folder) + 1 :], *COMMANDS}
    for path in (PACKAGE / folder).rglob("*.py"):
        assert later.isdisjoint(imported(path)), path


def test_modules_beside_the_folders_import_none_of_them():
    shared = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", *COMMANDS}
    for name in shared:
        assert {*FOLDERS, *COMMANDS}.isdisjoint(imported(PACKAGE / f"{name}.py")), name
