"""Configs of tables: training configs, incomplete rows, weights from any folder."""

import pytest

from configs import eddsrn, table1
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.table import compare, read_entries
from eddsrn_jax.training.config_checks import check


def test_a_training_config_is_refused_as_a_table(tmp_path):
    message = "config 'ED-DSRN' trains a network, and only train.py takes it; evaluate.py"
    with pytest.raises(InputError, match=message):
        compare(eddsrn.get_config(), datasets={}, output_dir=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_table_is_refused_as_a_training_config():
    with pytest.raises(InputError, match="is a table of systems, which evaluate.py tak"):
        check(table1.get_config())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c.rows.vdsr.__delitem__("weights"),
            r"config.rows.vdsr.weights is missing",
        ),
        (
            lambda c: c.rows.vdsr.__delitem__("title"),
            r"config.rows.vdsr.title is missing",
        ),
        (lambda c: c.__delitem__("rows"), r"config.rows=None: a table has rows"),
        (lambda c: c.update(order=("a",)), r"config.order=\('a',\): expected names"),
        (
            lambda c: c.update(order=("deblur_cnn_vdsr",)),
            "parts: deblur_cnn, vdsr must come before this row in config.order",
        ),
    ],
)
def test_incomplete_tables_give_a_one_line_error(change, message):
    config = table1.get_config().unlock()
    change(config)
    with pytest.raises(InputError, match=message) as caught:
        read_entries(config, dtype=None, peers=None)
    assert "\n" not in str(caught.value)


def test_weights_of_table1_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = table1.get_config().unlock()
    config.order = ("bicubic", "vdsr", "edsr")
    entries = read_entries(config, dtype=None, peers=None)
    assert [entry.missing for entry in entries] == ["", "", ""]
