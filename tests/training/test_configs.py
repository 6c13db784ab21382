import dataclasses
import importlib
import inspect
import json

import ml_collections
import pytest
from processes import ROOT

from eddsrn_jax.config_values import differences, flatten, from_json
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import EDDSRN, abstract_params, make_network
from eddsrn_jax.models.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.losses import joint_loss
from eddsrn_jax.training.setup import load_params

FILES = {path.stem for path in (ROOT / "configs").glob("[a-z]*.py")} - {"sizes", "table1"}
# Configs that come in the sizes "full" and "lite".
SIZED = {"deblur_cnn", "edsr", "edsrn", "lapsrn", "lapsrn_finetuned", "srresnet"}
SIZED |= {"scgan", "srresnet_finetuned", "vdsr"}
NAMES = sorted([*FILES, *(f"{name}:lite" for name in SIZED), "edsr:baseline"])


def load(name):
    file, _, size = name.partition(":")
    get_config = importlib.import_module(f"configs.{file}").get_config
    return get_config(size) if size else get_config()


def recipe(config):
    """Returns all values of a config but those of the network."""
    return {k: v for k, v in flatten(config).items() if not k.startswith("model.")}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_locked_complete_and_builds_its_network(name):
    config = load(name)
    assert config.is_locked
    assert set(config) == set(load("eddsrn"))
    assert set(recipe(config)) == set(recipe(load("eddsrn")))
    check(config)
    model = make_network(config.network, config.model)
    fields = {field.name for field in dataclasses.fields(model)} - {"parent", "name"}
    assert set(config.model) <= fields
    assert count_parameters(abstract_params(model)) > 0
    assert config.data.hr_patch_size % 32 == 0


@pytest.mark.parametrize("name", sorted(SIZED))
def test_lite_systems_have_the_recipe_and_cost_of_eddsrn_lite(name):
    """A lite system has the recipe and about the cost of ED-DSRN lite.

    ED-DSRN lite takes 0.24 million multiply-accumulates a pixel.
    """
    config, lite = load(f"{name}:lite"), load("eddsrn_lite")
    assert config.name.startswith(load(name).name.split(",")[0])
    assert config.batch_size == lite.batch_size
    assert config.data.hr_patch_size == lite.data.hr_patch_size
    assert config.total_steps == lite.total_steps
    cost = macs_per_pixel(make_network(config.network, config.model))
    assert 0.2e6 < cost < 0.35e6


def test_finetuned_configs_start_from_runs_of_the_same_model():
    for name in ("srresnet", "lapsrn"):
        for size in ("full", "lite"):
            before, after = load(f"{name}:{size}"), load(f"{name}_finetuned:{size}")
            assert before.model.to_dict() == after.model.to_dict()
            assert before.degradation.sigma_range == (0.0, 0.0)
            assert after.degradation.sigma_range == (1.0, 2.0)
            assert after.init_from == f"runs/{name}" + "-lite" * (size == "lite")


def test_get_config_rejects_unknown_sizes():
    with pytest.raises(ValueError, match="size 'tiny': expected one of full, lite"):
        load("vdsr:tiny")


def test_eddsrn_config_has_the_papers_values():
    config = load("eddsrn")
    assert (config.batch_size, config.num_epochs) == (32, 120)
    assert (config.data.hr_patch_size, config.data.crops_per_image) == (256, 40)
    assert config.degradation.sigma_range == (1.0, 2.0)
    assert (config.loss.alpha, config.loss.eps) == (0.2, 1e-3)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.halve_every_epochs) == (5e-4, 30)
    assert (optimizer.schedule, optimizer.clip_norm) == ("step_decay", 0)


def test_model_defaults_are_those_of_the_papers_config():
    """The config repeats the defaults, so that it shows all that can be changed."""
    fields = {name: getattr(EDDSRN(), name) for name in load("eddsrn").model}
    assert fields == load("eddsrn").model.to_dict()


def test_loss_keys_are_arguments_of_joint_loss():
    keywords = inspect.signature(joint_loss).parameters
    assert set(load("eddsrn").loss) <= set(keywords)


def test_the_ablation_has_no_deblurring_head():
    assert "deblur_head" not in abstract_params(EDDSRN(**load("edsrn").model))


def test_eddsrn_lite_has_one_to_two_million_parameters():
    model = EDDSRN(**load("eddsrn_lite").model)
    assert 1e6 <= count_parameters(abstract_params(model)) <= 2e6


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("batch_size", 0, "config.batch_size=0: expected a whole number, 1 or more"),
        ("total_steps", -5, "config.total_steps=-5: expected a whole number, 0"),
        ("num_epochs", 0, "config.num_epochs=0: expected 1 or more"),
        (
            "data.hr_patch_size",
            30,
            "config.data.hr_patch_size=30: expected a multiple of 4",
        ),
        ("validation.sigmas", (), "config.validation.sigmas=(): expected sigmas in [0"),
        (
            "degradation.sigma_range",
            (2.0, 1.0),
            "expected two sigmas in [0, 10], low and high",
        ),
        (
            "model.features",
            (8, 8, 8),
            "config.model.features=(8, 8, 8): expected 4",
        ),
        ("model.sr_features", (8, 0, 8), "expected 3 whole numbers of 1 or more"),
        ("model.front_end", "gaussian-0", "no front end 'gaussian-0', only gaussian-1-"),
        ("optimizer.b2", 1.0, "optimizer.b2=1.0: expected 0 or more and less than 1"),
        ("degradation.sigma_range", ("a", "b"), "expected two sigmas in [0, 10]"),
        ("degradation.noise_share", 1.5, "noise_share=1.5: expected 0 to 1"),
        ("degradation.jpeg_quality", (0, 90), "expected two whole numbers in [1, 100]"),
        ("degradation.jpeg_quality", (90, 30), "expected two whole numbers in [1, 100]"),
        ("validation.degradation", "web", "expected 'paper' or 'photo'"),
        ("seed", -1, "config.seed=-1: expected a whole number, 0 or more"),
        ("optimizer.learning_rate", -1.0, "learning_rate=-1.0: expected a number, more"),
        ("model.dtype", "float33", "config.model.dtype='float33': expected a type to"),
        ("model.dtype", "int32", "config.model.dtype='int32': expected a type to"),
    ],
)
def test_check_rejects_invalid_values(name, value, message):
    config = load("eddsrn")
    config.update_from_flattened_dict({name: value})
    with pytest.raises(InputError) as caught:
        check(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ("del config.seed", "config.seed is missing"),
        ("del config.loss", "config.loss.sr is missing"),
        ("del config.model", "config.model is missing"),
        ("config.loss.beta = 1", "config.loss.beta=1: unknown config value"),
        ("config.model.foo = 1", "unexpected keyword argument 'foo'"),
        ("del config.seed; config.seed = 'x'", "config.seed='x': expected a whole num"),
        ("del config.model; config.model = 5", "config.model=5: unknown config value"),
        ("config = [1]", "--config: [1] is not an ml_collections.ConfigDict"),
        ("1 / 0", "--config: division by zero (CONFIG, line 5)"),
        ("import absent", "--config: No module named 'absent' (CONFIG, line 5)"),
        ("config.batch_size = 'x'", "flag --config=CONFIG: Could not override field"),
    ],
)
def test_invalid_config_files_give_a_one_line_error(tmp_path, change, message, call):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import eddsrn\n\n\ndef get_config():\n"
        f"    config = eddsrn.get_config().unlock(); {change}\n    return config\n"
    )
    code, _, err = call("train", f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert code in (1, 2)
    assert message.replace("CONFIG", str(path)) in err
    assert len(err.splitlines()) == 1


def test_a_config_survives_json():
    config = load("eddsrn_lite")
    restored = from_json(json.loads(json.dumps(config.to_dict())))
    assert restored.to_dict() == config.to_dict()
    assert isinstance(restored.model.features, tuple)
    assert differences(restored, config) == {}
    assert differences(restored, load("eddsrn"))["batch_size"] == (8, 32)


def test_check_rejects_a_discriminator_for_a_network_that_only_deblurs():
    config = load("deblur_cnn:lite")
    check(config)
    config.adversarial.weight = 1e-3
    with pytest.raises(InputError, match="adversarial.weight=0.001: expected 0, because"):
        check(config)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("table1")])
def test_every_training_config_takes_a_front_end(name):
    config = load(name)
    config.model.front_end = "gaussian-1-084c6179"
    check(config)


def test_layers_for_details_need_a_first_width_that_is_a_multiple_of_four():
    config = load("eddsrn_photo")
    config.model.features = (62, 128, 192)
    with pytest.raises(InputError, match=r"features=\(62, 128, 192\): detail_features"):
        check(config)


@pytest.mark.parametrize(
    "name, weights",
    [
        ("eddsrn_photo", "photo"),
        ("eddsrn_half", "gaussian"),
        ("eddsrn_lite", "eddsrn-lite"),
    ],
)
def test_training_can_start_from_the_included_weights_of_its_config(name, weights):
    config = load(name)
    assert load_params(weights, make_network(config.network, config.model))


def test_rejects_an_unknown_schedule_and_a_name_that_no_file_can_hold():
    for name, value, expected in (
        ("optimizer.schedule", "linear", "'step_decay', 'warmup_cosine' or 'warmup_c"),
        ("name", "caf\udce9", "text of printable characters"),
    ):
        config = load("quickstart")
        config.update_from_flattened_dict({name: value})
        with pytest.raises(InputError, match=f"config.{name}=.*: expected {expected}"):
            check(config)


def test_lists_in_a_config_equal_the_tuples_that_a_saved_one_has():
    config = load("quickstart").to_dict()
    config["degradation"]["sigma_range"] = [1.0, 2.0]
    config = ml_collections.ConfigDict(config)
    saved = from_json(json.loads(json.dumps(config.to_dict())))
    assert saved.degradation.sigma_range == (1.0, 2.0)
    assert differences(saved, config) == {}
