"""Tests of the tables that docs/generated.py makes."""

import importlib.util

import pytest
from processes import ROOT

from configs import eddsrn
from eddsrn_jax.commands import evaluate, restore
from eddsrn_jax.config_values import flatten

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def generated():
    spec = importlib.util.spec_from_file_location("generated", ROOT / "docs/generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_cells(table):
    """Returns the names in the first column of tables, without the quotes around them."""
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    return [row[1].strip(" `") for row in rows]


@pytest.mark.parametrize("command", [restore, evaluate], ids=lambda x: x.__name__)
def test_every_flag_has_one_row(generated, command):
    table = generated.flags_table(command.__name__.rpartition(".")[2])
    assert sorted(first_cells(table)) == sorted(f"--{name}" for name in command.FLAGS)
    assert all(line.endswith(" |") for line in table.splitlines())


def test_flag_has_its_values_default_and_help(generated):
    table = generated.flags_table("restore").splitlines()
    assert (
        "| `--recursive` | switch | off | Restore the images in subfolders too. |"
        in table
    )
    (row,) = [line for line in table if line.startswith("| `--format`")]
    assert row.startswith("| `--format` | `png`, `jpg`, `tif`, `webp`, `bmp` | `png` | F")


def test_every_config_value_has_one_row_with_its_comment(generated):
    table = generated.values_table("eddsrn")
    names = {f"config.{name}" for name in flatten(eddsrn.get_config())}
    assert sorted(first_cells(table)) == sorted(names)
    assert (
        "| `config.seed` | `0` | Seed of the initial weights, the crops and their"
        in table
    )
    # One comment stands above these two.
    for name in ("sr", "deblurred"):
        (row,) = [
            x for x in table.splitlines() if x.startswith(f"| `config.loss.{name}`")
        ]
        assert "Losses of the x4 and the deblurred image" in row
    assert "\n| `config.pipeline.num_threads`" in table.split("### config.pipeline\n")[1]
