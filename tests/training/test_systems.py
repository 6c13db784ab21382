"""Tests that each system learns from scikit-image's photos, by one training loop."""

import importlib

import jax
import pytest

from eddsrn_jax.checkpoints.manager import BEST_METRICS, read_run
from eddsrn_jax.evaluation.validation import validate
from eddsrn_jax.models import init_params, make_network
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.setup import open_data

SYSTEMS = ("deblur_cnn", "edsr", "edsrn", "lapsrn", "scgan", "srresnet", "vdsr")
CONTINUED = ("lapsrn_finetuned", "srresnet_finetuned")


def load(name, folder, **changes):
    file, _, size = name.partition(":")
    module = importlib.import_module(f"configs.{file}")
    config = module.get_config(size) if size else module.get_config()
    changes = {
        "batch_size": 8,
        "total_steps": 200,
        "data.source": "bundled",
        "data.cache_dir": str(folder / "packs"),
        "data.hr_patch_size": 96,
        "data.crops_per_image": 200,
        "optimizer.warmup_steps": 20,
        "validation.every_steps": 200,
        **changes,
    }
    config.update_from_flattened_dict(changes)
    return config


def score(config, params):
    model = make_network(config.network, config.model)
    _, held_out = open_data(config)
    restorer, sigmas = Restorer(model, params), config.validation.sigmas
    scores, _ = validate(restorer, held_out.photos, sigmas=sigmas)
    names = [name.removeprefix("val/") for name in BEST_METRICS]
    return next(scores[name] for name in names if name in scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eddsrn_lite", *(f"{name}:lite" for name in SYSTEMS)])
def test_200_training_steps_improve_the_validation_score(name, tmp_path):
    config = load(name, tmp_path)
    model = make_network(config.network, config.model)
    before = score(config, init_params(model, jax.random.key(config.seed)))
    assert train_and_evaluate(config, tmp_path / "run") is None
    assert score(config, read_run(tmp_path / "run").params) > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUED)
def test_200_finetuning_steps_improve_the_validation_score(name, tmp_path):
    first = load(f"{name.removesuffix('_finetuned')}:lite", tmp_path)
    train_and_evaluate(first, tmp_path / "first")
    start = str(tmp_path / "first")
    config = load(f"{name}:lite", tmp_path, init_from=start)
    before = score(config, read_run(tmp_path / "first").params)
    assert train_and_evaluate(config, tmp_path / "run") is None
    assert score(config, read_run(tmp_path / "run").params) > before + 0.1
