import csv
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image
from tiny import SMALL

from configs import table1
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.baselines.cascade import Cascade
from eddsrn_jax.evaluation.baselines.dark_channel import DarkChannel
from eddsrn_jax.evaluation.baselines.wiener import Wiener
from eddsrn_jax.evaluation.comparison import Comparison
from eddsrn_jax.evaluation.figure import draw_figure
from eddsrn_jax.evaluation.inputs import Spoiling
from eddsrn_jax.evaluation.network import evaluate_network
from eddsrn_jax.evaluation.results import open_output
from eddsrn_jax.evaluation.scoring import Scoring
from eddsrn_jax.evaluation.table import compare, read_entries
from eddsrn_jax.images import read_image, write_image
from eddsrn_jax.models import EDDSRN, EDSR, DeblurCNN, abstract_params, init_params
from eddsrn_jax.models.complexity import count_parameters
from eddsrn_jax.restoration.outputs import Restored
from eddsrn_jax.restoration.restorer import Restorer

MODELS = {
    "joint": EDDSRN(**SMALL),
    "deblur": DeblurCNN(layers=((5, 4), (1, 4), (3, 3))),
    "enlarge": EDSR(features=4, num_blocks=1),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Returns the config of a table with every kind of row and untrained networks."""
    folder, rows = tmp_path_factory.mktemp("weights"), {}
    for name, model in MODELS.items():
        params = init_params(model, jax.random.key(0))
        network = Network(model, params, name, 1, (1.0, 2.0))
        write_network(folder / f"{name}.safetensors", network, dtype="float32")
    for name in (*MODELS, "absent"):
        path = str(folder / f"{name}.safetensors")
        row = {"title": name, "method": "network", "weights": path, "paper": ()}
        rows[name] = {**row, "train": f"python train.py --config=configs/{name}.py"}
    for kind in ("bicubic", "wiener", "dark_channel", "peer"):
        rows[kind] = {"title": kind, "method": kind, "paper": ((22.5, 0.0), (21.5, 0.25))}
    rows["peer"]["peer"] = "VDSR"
    for name, parts in (("both", ("deblur", "enlarge")), ("half", ("deblur", "absent"))):
        rows[name] = {"title": name, "method": "cascade", "parts": parts, "paper": ()}
    return ml_collections.ConfigDict({"name": "test", "rows": rows, "order": [*rows]})


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(photo[100:204, 60:180]).save(folder / "cat.png")
    return folder


@pytest.fixture(scope="module")
def compared(config, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    entries = compare(
        config,
        datasets={"cats": photos},
        scoring=Scoring(sigmas=(1.0, 2.0)),
        figure=str(photos / "cat.png"),
        output_dir=out,
    )
    return entries, out


def test_compare_lists_all_rows_their_costs_and_missing_inputs(compared, photos):
    entries, out = compared
    text = (out / "test.md").read_text()
    lines = [line.strip("| ").split("|") for line in text.splitlines() if "|" in line]
    cells = {line[0].strip(): [cell.strip() for cell in line] for line in lines}
    assert [entry.title for entry in entries] == [*cells][2:]
    assert cells["absent"][3] == cells["half"][3] == cells["peer"][3] == "not measured"
    assert cells["bicubic"][1] == "" and cells["bicubic"][-2:] == [
        "22.50",
        "21.50 / 0.2500",
    ]
    assert "absent.safetensors; run `python train.py --config=configs/absent.py`" in text
    assert "- half: needs absent" in text and "- peer: give --peers=DIR" in text
    assert " bicubic<" in (out / "costs.svg").read_text()
    both, deblur, enlarge = (
        next(entry for entry in entries if entry.title == name)
        for name in ("both", "deblur", "enlarge")
    )
    assert deblur.parameters == count_parameters(abstract_params(MODELS["deblur"]))
    assert both.parameters == deblur.parameters + enlarge.parameters
    assert both.flops == deblur.flops + enlarge.flops


def test_the_scores_of_a_table_name_its_sets_and_weights(compared, photos):
    _, out = compared
    protocol = json.loads((out / "results.json").read_text())["protocol"]
    assert protocol["datasets"] == {"cats": str(photos)}
    assert {"joint", "deblur"} <= protocol["sha256"].keys()
    assert "absent" not in protocol["sha256"]


def test_gains_are_printed_only_of_a_network_with_an_x4_image(config, photos, capsys):
    for row, header in (("deblur", "| output "), ("joint", "| sigma |")):
        evaluate_network(
            weights=Path(config.rows[row].weights),
            datasets={"cats": photos},
            scoring=Scoring(sigmas=(1.0,), spoilings=(Spoiling(noise=5.0),)),
            output_dir=photos.parent / row,
        )
        assert header in capsys.readouterr().out


def test_a_refused_evaluation_makes_no_folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="absent"):
        evaluate_network(
            datasets={"cats": photos}, comparison=Comparison(peers=tmp_path / "absent")
        )
    assert not any(tmp_path.iterdir())


def test_compare_gives_the_scores_of_evaluate_network(compared, config, photos, tmp_path):
    _, out = compared
    found = {
        (row["title"], row["output"]): row
        for row in json.loads((out / "test.json").read_text())
        if not row["missing"]
    }
    rows = evaluate_network(
        weights=Path(config.rows.joint.weights),
        datasets={"cats": photos},
        scoring=Scoring(sigmas=(1.0, 2.0)),
        comparison=Comparison(wiener=True),
        output_dir=tmp_path,
    )
    for output in ("sr", "deblurred"):
        for name, title in (("joint", "joint"), ("Wiener, told sigma", "wiener")):
            values = [
                row.scores["psnr_y_crop4"]
                for row in rows
                if (row.method, row.output) == (name, output)
            ]
            assert found[title, output]["psnr_y_crop4"] == pytest.approx(np.mean(values))
    assert ("dark_channel", "deblurred") in found and ("dark_channel", "sr") not in found
    assert found["both", "deblurred"]["psnr_y_crop4"] == pytest.approx(
        found["deblur", "deblurred"]["psnr_y_crop4"]
    )
    with (out / "test.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["title"] for row in table} == set(config.order)
    assert all(float(row["seconds"]) > 0 for row in table if not row["missing"])


def test_a_figure_has_a_panel_of_every_method(compared):
    _, out = compared
    picture = read_image(out / "figure_cat.png")
    # The photo, the input and seven methods fill two rows of up to six panels.
    assert picture.shape == (2 * (192 + 28 + 8) - 8, 6 * (192 + 8) - 8, 3)


def test_a_figure_shows_the_region_where_bicubic_is_worst(photo):
    image = np.full((256, 256, 3), 128, np.uint8)
    image[144:192, 48:96] = photo[100:148, 100:148]
    nothing = lambda lr_blur: Restored(deblurred=lr_blur)  # noqa: E731
    picture = draw_figure({"bicubic": bicubic, "nothing": nothing}, image, sigma=1.0)
    shown = picture[:192:2, :192:2]
    assert (shown == photo[100, 100]).all(axis=2).any()
    # Both panels show the small input, whose pixels are repeated: the second panel is the
    # input's, the fourth that of a method which returns the input as "deblurred".
    np.testing.assert_array_equal(picture[:192, 200:392], picture[:192, 600:792])
    with pytest.raises(InputError, match="photo: 80 x 90 pixels are too few"):
        draw_figure({}, photo[:90, :80], sigma=1.0)


def test_a_cascade_enlarges_its_8_bit_deblurred_image(photo):
    deblur, enlarge = (
        Restorer(MODELS[name], init_params(MODELS[name], jax.random.key(0)))
        for name in ("deblur", "enlarge")
    )
    cascade, image = Cascade(deblur, enlarge), photo[:20, :31]
    cascade.prepare(20, 31)
    found = cascade(image)
    np.testing.assert_array_equal(found.deblurred, deblur(image).deblurred)
    np.testing.assert_array_equal(found.sr, enlarge(found.deblurred).sr)


def test_a_cascade_tells_its_first_method_sigma(photo):
    wiener, image = Wiener(), photo[:20, :31]
    cascade = Cascade(wiener, bicubic)
    assert cascade.takes_sigma and not Cascade(bicubic, bicubic).takes_sigma
    found = cascade(image, 1.5)
    np.testing.assert_array_equal(found.deblurred, wiener(image, 1.5).deblurred)
    np.testing.assert_array_equal(found.sr, bicubic(found.deblurred).sr)


@pytest.mark.parametrize(
    "parts, message",
    [((bicubic, bicubic), "deblur"), ((DarkChannel(),) * 2, "super-res")],
)
def test_a_cascade_of_unfit_methods_is_refused(photo, parts, message):
    with pytest.raises(InputError, match=f"method of a cascade must {message}"):
        Cascade(*parts)(photo[:40, :40])


def test_a_method_that_is_told_sigma_cannot_come_second(config):
    wrong = config.copy_and_resolve_references().unlock()
    row = {"title": "A", "method": "wiener", "paper": ()}
    parts = {"method": "cascade", "paper": (), "parts": ("a", "a"), "title": "B"}
    wrong.rows = ml_collections.ConfigDict({"a": row, "b": parts})
    wrong.order = ("a", "b")
    with pytest.raises(InputError, match="'A' must be told sigma, so it can only be the"):
        read_entries(wrong, dtype=None, peers=None)


def test_read_entries_rejects_unknown_methods(config):
    wrong = config.copy_and_resolve_references()
    wrong.rows.joint.method = "magic"
    with pytest.raises(InputError, match=r"config.rows.joint.method='magic': unknown"):
        read_entries(wrong, dtype=None, peers=None)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": None}, "config.name=None: expected text"),
        ({"name": "results"}, "config.name='results': expected the name of the table's"),
        ({"name": "a/b"}, "config.name='a/b': expected the name of the table's files"),
        (
            {"rows": {"a": "text"}, "order": ("a",)},
            "config.rows.a='text': expected",
        ),
        (
            {
                "rows": {
                    "a": {"title": "A", "method": "bicubic", "paper": ()},
                    "b": {
                        **{"title": "B", "method": "cascade", "paper": ()},
                        "parts": ("a", "a", "a"),
                    },
                },
                "order": ("a", "b"),
            },
            "config.rows.b.parts=.*: expected two rows",
        ),
        (
            {
                "rows": {
                    name: {"title": "A", "method": "bicubic", "paper": ()}
                    for name in ("a", "b")
                },
                "order": ("a", "b"),
            },
            "config.rows: two rows have the title 'A'",
        ),
    ],
    ids=["name", "name of the scores", "folder in the name", "row", "parts", "titles"],
)
def test_read_entries_rejects_malformed_tables(change, message):
    table = ml_collections.ConfigDict({"name": "mine"} | change)
    with pytest.raises(InputError, match=message):
        read_entries(table, dtype=None, peers=None)


def test_a_name_with_a_dot_is_the_whole_name_of_the_files(photos, tmp_path, capsys):
    rows = {"a": {"title": "A", "method": "bicubic", "paper": ()}}
    values = {"name": "table-v1.5", "rows": rows, "order": ("a",)}
    scoring = Scoring(sigmas=(1.0,))
    options = {"datasets": {"cats": photos}, "output_dir": tmp_path, "scoring": scoring}
    compare(ml_collections.ConfigDict(values), **options)
    assert (
        f"tables in {tmp_path}/table-v1.5.md, .csv and .json" in capsys.readouterr().out
    )
    for suffix in ("md", "csv", "json"):
        assert (tmp_path / f"table-v1.5.{suffix}").is_file()


def test_compare_rejects_figures_of_missing_photos(config, photos, tmp_path):
    options = {"datasets": {"cats": photos}, "output_dir": tmp_path}
    with pytest.raises(InputError, match="no such photo, only .*chelsea.png"):
        compare(config, figure="bundled:dog.png", **options)
    with pytest.raises(InputError, match="dog.png"):
        compare(config, figure=str(tmp_path / "dog.png"), **options)
    assert not [*tmp_path.iterdir()]


def test_unusable_inputs_are_refused_before_a_folder_is_made(config, photos, tmp_path):
    small, options = tmp_path / "small.png", {"output_dir": tmp_path / "scores"}
    write_image(small, np.zeros((80, 90, 3), np.uint8))
    with pytest.raises(InputError, match="small.png: 90 x 80 pixels are too few for a"):
        compare(config, datasets={"a": photos}, figure=str(small), **options)
    for datasets, message in (({"a": photos, "A": photos}, "same name"), ({}, "nothing")):
        with pytest.raises(InputError, match=message):
            compare(config, datasets=datasets, **options)
        with pytest.raises(InputError, match=message):
            evaluate_network(datasets=datasets, **options)
    assert [*tmp_path.iterdir()] == [small]


def test_commands_that_start_together_get_folders_of_their_own(tmp_path, monkeypatch):
    # Each sees that the folder is not there yet.
    monkeypatch.setattr(Path, "exists", lambda path: False)
    chosen = [open_output(None, tmp_path / "scores" / "photo") for _ in range(3)]
    assert [path.name for path in chosen] == ["photo", "photo-2", "photo-3"]


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path):
    (tmp_path / "scores").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match="scores/photo"):
        open_output(None, tmp_path / "scores" / "photo")


def test_table1_config_matches_the_paper():
    config = table1.get_config()
    assert config.rows.eddsrn.paper == ((25.7005, 0.6994), (25.0131, 0.6503))
    assert config.rows.deblur_cnn_edsr.paper[1][0] == 21.62
    assert sum(bool(row.paper) for row in config.rows.values()) == 13
    assert "configs/edsr.py" in table1.get_config("full").rows.edsr.train


@pytest.mark.parametrize(
    "name", [n for n, row in table1.get_config().rows.items() if row.method == "network"]
)
def test_weights_of_table1_are_shipped(name):
    row = table1.get_config().rows[name]
    network = read_network(row.weights)
    assert network.name == row.title
    assert 1250 <= network.step <= 2500
