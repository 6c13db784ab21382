import logging
import shutil

import jax
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from states import MODEL, PROGRESS, assert_same, make_config, make_state, steps_on_disk
from tiny import PLAIN

from eddsrn_jax.checkpoints.checksums import checksum
from eddsrn_jax.checkpoints.manager import BEST_METRICS, Checkpoints, read_run
from eddsrn_jax.errors import InputError
from eddsrn_jax.mesh import make_mesh, replicate
from eddsrn_jax.models import VDSR, abstract_params
from eddsrn_jax.models.scgan import Discriminator
from eddsrn_jax.training.adversarial import with_discriminator

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collect_failed_reads"),
]


def save(workdir, scores):
    """Saves checkpoints; `scores` has a validation score or None for each step."""
    with Checkpoints(workdir) as checkpoints:
        for step, score in scores.items():
            metrics = {BEST_METRICS[0]: score} if score else None
            checkpoints.save(
                make_state(step), make_config(), progress=PROGRESS, metrics=metrics
            )
        checkpoints.wait()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Saves checkpoints of steps 1 and 2; returns their workdir, to be copied."""
    workdir = tmp_path_factory.mktemp("run")
    save(workdir, {1: 26.0, 2: 25.0})
    return workdir


def test_restores_a_state_bit_for_bit_with_its_config_and_progress(tmp_path):
    save(tmp_path, {7: 24.0})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(make_state())
    assert_same(restored.state, make_state(7))
    assert restored.progress == PROGRESS
    config = restored.config
    assert config.to_dict() == make_config().to_dict()
    assert config.degradation.sigma_range == (0.0, 0.0)
    assert config.is_locked


@pytest.mark.parametrize("before, after", [(1, 8), (8, 2)])
def test_restores_a_state_on_another_number_of_devices(tmp_path, before, after):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(
            make_state(3, before), make_config(), progress=PROGRESS, metrics=None
        )
    like = make_state(0, after)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest(like).state
    assert_same(restored, make_state(3))
    shardings = {leaf.sharding for leaf in jax.tree.leaves(restored)}
    assert shardings == {jax.tree.leaves(like)[0].sharding}
    assert len(shardings.pop().device_set) == after


def test_keeps_the_two_latest_and_the_best_steps_across_restarts(tmp_path):
    save(tmp_path, {1: 24.0, 2: 26.0, 3: 25.0})
    assert steps_on_disk(tmp_path) == [2, 3]
    save(tmp_path, {4: None, 5: 25.5})
    assert steps_on_disk(tmp_path) == [2, 4, 5]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        step, config, params = checkpoints.restore_params()
        assert step == 2
        assert config.name == "VDSR"
        assert_same(params, make_state(2).params)
        step, _, params = checkpoints.restore_params(5, like=abstract_params(MODEL))
        assert step == 5
        assert_same(params, make_state(5).params)
        with pytest.raises(InputError, match=r"of step 3, only of \[2, 4, 5\]"):
            checkpoints.restore_params(3)


def test_restore_params_takes_the_latest_step_without_validation(tmp_path):
    save(tmp_path, {1: None, 2: None})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_params()[0] == 2


def largest_file(folder):
    """Returns the largest file of arrays."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_byte(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


def truncate(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def no_config(folder):
    shutil.rmtree(folder / "config")


def another_config(folder):
    path = folder / "config" / "metadata"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


def truncate_metrics(folder):
    (folder / "metrics" / "metrics").write_text("{")


def another_score(folder):
    path = folder / "metrics" / "metrics"
    path.write_text(path.read_text().replace("25", "35"))


def another_name(folder):
    path = folder / "params" / "_METADATA"
    path.write_text(path.read_text().replace("stem", "stfm"))


@pytest.mark.parametrize(
    "damage",
    [
        *(flip_a_byte, truncate, empty, no_config, another_name),
        *(another_config, truncate_metrics, another_score),
    ],
)
def test_warns_of_a_damaged_checkpoint_and_restores_the_one_before(
    two_steps, tmp_path, damage, caplog
):
    shutil.copytree(two_steps, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "2")
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path / "run") as checkpoints:
        restored = checkpoints.restore_latest(make_state()).state
    assert_same(restored, make_state(1))
    assert f"{tmp_path}/run/checkpoints/2 cannot be restored: " in caplog.text
    assert (tmp_path / "run" / "damaged-checkpoint-2").is_dir()
    assert steps_on_disk(tmp_path / "run") == [1]


def test_keeps_every_damaged_checkpoint_of_a_step_that_is_saved_again(
    two_steps, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(two_steps, workdir)
    flip_a_byte(workdir / "checkpoints" / "2")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.restore_latest(make_state())
    save(workdir, {2: 25.0})
    assert steps_on_disk(workdir) == [1, 2]
    flip_a_byte(workdir / "checkpoints" / "2")
    with Checkpoints(workdir) as checkpoints:
        checkpoints.restore_latest(make_state())
    for name in ("damaged-checkpoint-2", "damaged-checkpoint-2-2"):
        assert (workdir / name / "params").is_dir()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [half, flip, lambda path: path.unlink()])
def test_restores_only_saved_states_whichever_file_is_damaged(tmp_path, damage):
    """Damages each file of a checkpoint in turn.

    The damage is detected, or the file is not needed. No file is deleted.
    """
    save(tmp_path / "whole", {1: 26.0, 2: 25.0})
    saved, like = {step: make_state(step) for step in (1, 2)}, make_state()
    files = [p for p in (tmp_path / "whole/checkpoints/2").rglob("*") if p.is_file()]
    restored_steps = set()
    for i, path in enumerate(files):
        workdir = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", workdir)
        damage(workdir / path.relative_to(tmp_path / "whole"))
        count = sum(p.is_file() for p in workdir.rglob("*"))
        with Checkpoints(workdir) as checkpoints:
            restored = checkpoints.restore_latest(like).state
        step = int(restored.step)
        assert_same(restored, saved[step])
        assert (workdir / "damaged-checkpoint-2").is_dir() == (step == 1)
        assert sum(p.is_file() for p in workdir.rglob("*")) == count
        restored_steps.add(step)
    assert restored_steps == {1, 2}


def test_restore_params_rejects_a_damaged_checkpoint(tmp_path):
    save(tmp_path, {1: 26.0})
    flip_a_byte(tmp_path / "checkpoints" / "1" / "params")
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(InputError, match="checkpoints/1 cannot be restored: "),
    ):
        checkpoints.restore_params(1)


def test_refuses_to_start_over_if_all_checkpoints_are_damaged(tmp_path):
    save(tmp_path, {1: None})
    truncate(tmp_path / "checkpoints" / "1")
    for _ in range(2):
        with (
            Checkpoints(tmp_path) as checkpoints,
            pytest.raises(InputError, match="none of its 1 checkpoints can be restored"),
        ):
            checkpoints.restore_latest(make_state())
        assert steps_on_disk(tmp_path) == [1]


def test_a_checkpoint_with_damaged_metrics_is_not_taken_for_the_best(tmp_path, caplog):
    save(tmp_path, {1: 26.0, 2: 25.0, 3: 25.5})
    for damage, metrics in ((another_score, "35"), (truncate_metrics, "{")):
        damage(tmp_path / "checkpoints" / "2")
        assert metrics in (tmp_path / "checkpoints/2/metrics/metrics").read_text()
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            assert checkpoints.restore_params()[0] == 1
            assert checkpoints.restore_params(3)[0] == 3
            with pytest.raises(InputError, match="checkpoints/2 cannot be restored: "):
                checkpoints.restore_params(2)
        assert "2 cannot be restored: " in caplog.text
        assert "it cannot count as the best checkpoint" in caplog.text
    save(tmp_path, {4: 25.7, 5: 25.6})
    assert (tmp_path / "damaged-checkpoint-2").is_dir()
    assert steps_on_disk(tmp_path) == [1, 4, 5]


def test_refuses_to_start_over_if_all_metrics_are_damaged(tmp_path):
    save(tmp_path, {1: 26.0, 2: 25.0})
    for step in "12":
        truncate_metrics(tmp_path / "checkpoints" / step)
    with pytest.raises(InputError, match="none of its 2 checkpoints can be restored"):
        Checkpoints(tmp_path)
    assert steps_on_disk(tmp_path) == [1, 2]


def test_an_operating_system_error_does_not_count_as_damage(tmp_path, monkeypatch):
    save(tmp_path, {1: 26.0})

    def too_many_files(*_, **__):
        raise ValueError("Error opening file [os_error_code='24'] [...]\nand more")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", too_many_files)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(OSError, match="/1 cannot be read at present: Error opening .*]$"),
    ):
        checkpoints.restore_latest(make_state())
    assert steps_on_disk(tmp_path) == [1]


def test_rejects_a_checkpoint_of_another_architecture(tmp_path):
    save(tmp_path, {1: None})
    wider = VDSR(**PLAIN | {"features": 24})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(InputError, match=r"another architecture: .*4.*24"),
    ):
        checkpoints.restore_latest(make_state(model=wider))
    assert steps_on_disk(tmp_path) == [1]


@pytest.mark.parametrize("changed", [{"features": 8}, {"num_layers": 3}])
def test_rejects_a_checkpoint_with_another_discriminator(tmp_path, changed):
    def state(**changes):
        judge = Discriminator(**{"features": 4, "num_layers": 2, **changes})
        key, optimizer = jax.random.key(0), optax.adam(1e-3)
        made = with_discriminator(make_state(1), judge, optimizer, key=key)
        return replicate(made, make_mesh(jax.devices()[:1]))

    message = r"its discriminator \(config.adversarial\) has another architecture: "
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(), make_config(), progress=PROGRESS, metrics=None)
        checkpoints.wait()
        with pytest.raises(InputError, match=message):
            checkpoints.restore_latest(state(**changed))
        assert checkpoints.restore_latest(state()) is not None


def save_described(workdir, changes):
    """Saves an untrusted checkpoint, in which some values of the config are changed."""
    values = make_config().to_dict()
    for name, value in changes.items():
        *path, last = name.split(".")
        section = values[path[0]] if path else values
        section[last] = value
    with Checkpoints(workdir) as checkpoints:
        config = ml_collections.ConfigDict(values)
        checkpoints.save(make_state(1), config, progress=PROGRESS, metrics=None)


def test_read_run_returns_the_network_that_its_config_describes(tmp_path):
    save_described(tmp_path, {"name": "mine", "degradation.sigma_range": (0.5, 1.5)})
    network = read_run(tmp_path)
    assert network.model == MODEL
    assert (network.name, network.step, network.sigma_range) == ("mine", 1, (0.5, 1.5))
    assert_same(network.params, make_state(1).params)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("name", value) for value in (5, None)),
        *(("network", value) for value in ("eval", ["VDSR"], 5)),
        *(("model", value) for value in (5, None, {"unknown": 1})),
        *(("model.features", value) for value in ("abcd", -1, 1e300, [64])),
        *(("model.num_layers", value) for value in ("x", 10**9)),
        *(("model.dtype", value) for value in ("foo", "int8", 5)),
        *(("degradation", value) for value in (5, None)),
        *(("degradation.sigma_range", value) for value in ("ab", [2, 1], [1], 5)),
    ],
    ids=lambda value: f"{value!s:.20}",
)
def test_read_run_rejects_invalid_untrusted_configs(tmp_path, name, value):
    save_described(tmp_path, {name: value})
    with pytest.raises(InputError, match=r"/checkpoints/1(:| cannot be) ") as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_rejects_a_file_in_place_of_the_checkpoint_folder(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(FileExistsError, match="checkpoints"):
        Checkpoints(tmp_path)


def test_read_only_access_rejects_a_folder_without_checkpoints(tmp_path):
    with pytest.raises(InputError, match="no checkpoints found"):
        Checkpoints(tmp_path, read_only=True)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="no finished checkpoint"):
        Checkpoints(tmp_path, read_only=True)


def test_checksum_depends_on_values_names_shapes_and_dtypes():
    tree = {"a": np.arange(6.0), "b": np.ones(2)}
    reference = checksum(tree)
    assert checksum({"a": np.arange(6.0), "b": np.ones(2)}) == reference
    for other in (
        {"a": np.arange(6.0) + 1e-9, "b": np.ones(2)},
        {"a": np.arange(6.0), "c": np.ones(2)},
        {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2)},
        {"a": np.arange(6.0), "b": np.ones(2, np.float32)},
    ):
        assert checksum(other) != reference
