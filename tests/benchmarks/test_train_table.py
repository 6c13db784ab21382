import json
import shutil
import sys

import pytest
from absl import flags as absl_flags

from benchmarks import train_table
from benchmarks.train_table import (
    NETWORKS,
    format_scores,
    plan,
    read_scores,
    record_settings,
    runs_to_do,
    train_all,
    training_flags,
)
from configs import table1
from eddsrn_jax.commands.command_line import execute
from eddsrn_jax.commands.config_flag import define_config_flag
from eddsrn_jax.errors import InputError
from eddsrn_jax.training.config_checks import check

SCORES = ("psnr_y_crop4", "psnr_rgb_crop4", "ssim_y_crop4", "ssim_rgb_crop4")


def write_scores(path, **values):
    rows = [{"method": "bicubic", "output": "sr", **dict.fromkeys(SCORES, 1.0)}]
    for output, value in values.items():
        scores = dict.fromkeys(SCORES, value)
        rows.append({"method": "mine", "output": output, **scores})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"means": rows}))


def test_every_network_of_the_table_is_trained_and_after_the_one_it_starts_from():
    runs = list(plan(list(NETWORKS), seeds=3))
    rows = table1.get_config().rows
    assert {name for name, row in rows.items() if row.method == "network"} <= set(
        NETWORKS
    )
    assert len(runs) == len(set(runs))
    assert {name for name, seed in runs if seed == 0} == set(NETWORKS)
    for i, (name, seed) in enumerate(runs):
        start = NETWORKS[name].start
        assert not start or (start, seed) in runs[:i]


def test_a_chosen_network_brings_the_one_it_starts_from():
    assert list(plan(["edsr"], seeds=3)) == [("edsr", 0)]
    runs = list(plan(["lapsrn_finetuned"], seeds=2))
    names = ("lapsrn", "lapsrn_finetuned")
    assert runs == [(name, seed) for seed in (0, 1) for name in names]


def test_a_run_has_its_share_of_the_crops_its_seed_and_its_first_weights(tmp_path):
    flags = training_flags(
        "srresnet_finetuned_half", seed=2, crops=100_000, folder=tmp_path
    )
    start = tmp_path / "srresnet_half-2.safetensors"
    assert {"--config.total_steps=6250", "--config.seed=2"} < set(flags)
    assert f"--config.init_from={start}" in flags
    flags = training_flags("eddsrn", seed=0, crops=100_000, folder=tmp_path)
    assert "--config=configs/eddsrn_lite.py" in flags
    assert "--config.total_steps=12500" in flags
    assert not any("init_from" in flag for flag in flags)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_flags_of_every_run_make_a_valid_config(name, tmp_path, monkeypatch):
    given = training_flags(name, seed=1, crops=100_000, folder=tmp_path)
    argv = ["train", *(flag for flag in given if flag.startswith("--config"))]
    monkeypatch.setattr(sys, "argv", argv)
    values = absl_flags.FlagValues()
    config = define_config_flag(values, "Config.")
    values(argv)
    check(config.value)
    assert (name.endswith("bank")) == bool(config.value.model.front_end)
    assert config.value.seed == 1 and config.value.batch_size == 8


def test_the_table_has_the_mean_and_the_range_of_the_seeds(tmp_path):
    found = []
    for name, seed, values in (
        ("eddsrn", 0, {"sr": 23.0, "deblurred": 28.0}),
        ("eddsrn", 1, {"sr": 23.5, "deblurred": 28.1}),
        ("deblur_cnn", 0, {"deblurred": 25.0}),
    ):
        write_scores(tmp_path / "results.json", **values)
        rows = read_scores(tmp_path / "results.json")
        assert [row["output"] for row in rows] == [*values]
        run = {"network": name, "seed": seed, "dataset": "mine"}
        found += [{**run, **row} for row in rows]
    others = [{**row, "dataset": "other"} for row in found[:1]]
    table = format_scores(others + found, "mine").splitlines()
    assert table[0].startswith("mine, ")
    assert table[-2:] == [
        "| eddsrn | 2 | 23.25 | 0.50 | 28.05 | 0.10 |",
        "| deblur_cnn | 1 |  |  | 25.00 |  |",
    ]


def test_only_runs_without_scores_are_done_and_the_weights_that_they_start_from(tmp_path):
    runs = list(plan(["vdsr", "srresnet_finetuned", "lapsrn_finetuned"], seeds=2))
    scored = {("vdsr", 0), ("srresnet", 0), ("srresnet_finetuned", 0), ("lapsrn", 0)}
    (tmp_path / "lapsrn-0.safetensors").touch()
    scored.add(("srresnet", 1))
    assert runs_to_do(runs, scored, tmp_path) == [
        ("lapsrn_finetuned", 0),
        # Its weights are needed again, for the next one.
        ("srresnet", 1),
        ("srresnet_finetuned", 1),
        ("lapsrn", 1),
        ("lapsrn_finetuned", 1),
    ]
    assert not runs_to_do(runs, runs, tmp_path)


def test_runs_with_other_settings_need_another_folder(tmp_path):
    record_settings(tmp_path, {"crops": "16", "dataset=a": "photos"})
    record_settings(tmp_path, {"crops": "16", "dataset=b": "others"})
    for name, value in (("crops", "32"), ("dataset=a", "others")):
        with pytest.raises(InputError, match=f"--{name}={value}: .*settings.json has --"):
            record_settings(tmp_path, {name: value})


def test_a_repeated_command_leaves_out_what_is_done(tmp_path):
    calls, stop_at, is_stopped = [], None, True

    def run(*arguments):
        assert len(calls) != stop_at
        calls.append(arguments)
        values = dict(x.partition("=")[::2] for x in arguments if x.startswith("--"))
        if arguments[0] == "train.py" and not is_stopped:
            folder = tmp_path / values["--workdir"] / "checkpoints"
            (folder / values["--config.total_steps"]).mkdir(parents=True)
        elif "export" in arguments:
            (tmp_path / values["--out"]).write_bytes(b"")
        elif arguments[0] == "evaluate.py":
            write_scores(tmp_path / values["--output_dir"] / "results.json", sr=20.0)

    def train(dataset="mine"):
        calls.clear()
        return train_all(
            ["edsr", "vdsr"],
            seeds=1,
            crops=16,
            photos=["--photos"],
            dataset=f"{dataset}=DIR",
            folder=tmp_path,
            run=run,
        )

    def read():
        rows = json.loads((tmp_path / "scores.json").read_text())
        return [(row["network"], row["seed"], row["dataset"]) for row in rows]

    # The first training is told to stop. It ends without an error, but is incomplete.
    with pytest.raises(InputError, match="edsr-0: this run was stopped before step 2"):
        train()
    is_stopped = False
    # Stopped before the first network is scored.
    stop_at = 2
    with pytest.raises(AssertionError):
        train()
    # Stopped before the second network is trained: the first one has its scores.
    stop_at = 1
    with pytest.raises(AssertionError):
        train()
    assert read() == [("edsr", 0, "mine")]
    stop_at = None
    assert train().read_text().count("20.00") == 2
    assert [arguments[0] for arguments in calls] == ["train.py", "-m", "evaluate.py"]
    assert read() == [("edsr", 0, "mine"), ("vdsr", 0, "mine")]
    train()
    assert not calls
    # Without the folders of the runs, as in a fresh clone, nothing is done again.
    for folder in (tmp_path / "edsr-0", tmp_path / "vdsr-0"):
        shutil.rmtree(folder)
    assert train().read_text().count("20.00") == 2
    assert not calls
    # Another set is scored with the same weights.
    assert train("other").read_text().count("20.00") == 2
    assert [arguments[0] for arguments in calls] == ["evaluate.py"] * 2
    assert len(read()) == 4


def test_a_wrong_folder_is_refused_before_it_is_recorded(
    photo_folder, tmp_path, monkeypatch, capsys
):
    right = {
        "train": str(photo_folder),
        "valid": str(photo_folder),
        "dataset": f"mine={photo_folder}",
        "folder": str(tmp_path / "runs"),
    }
    for name, value in (
        ("train", "/absent"),
        ("valid", "/absent"),
        ("dataset", "mine=/absent"),
        ("dataset", "mine"),
        ("dataset", "a/b=/absent"),
        ("dataset", "mine=pairs:a,b"),
        ("only", ""),
    ):
        given = [f"--{k}={v}" for k, v in (right | {name: value}).items()]
        monkeypatch.setattr(sys, "argv", ["train_table", *given])
        assert execute(train_table.main, train_table.FLAGS) in (1, 2)
        expected = value.rpartition("=")[2] or f"--{name}="
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()
