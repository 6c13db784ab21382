"""Networks and losses of one's own, which commands take by import path."""

import sys

import jax
import ml_collections
import numpy as np
import optax
import pytest
import safetensors.numpy
from PIL import Image
from tiny import TwoOutputs, tiny_config

from eddsrn_jax import Restorer
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import NETWORKS, import_network, init_params, make_network
from eddsrn_jax.training import config_checks, loop
from eddsrn_jax.training.losses import import_loss, joint_loss
from eddsrn_jax.training.state import create_train_state

PATH = "tiny:TwoOutputs"
MODULE = """
import flax.linen as nn
import jax.numpy as jnp

not_a_function = 3

class Plain(nn.Module):
    stride = 1
    receptive_radius = 0
    dtype: str = "float32"

    def __call__(self, x):
        return {"deblurred": x}

class NoRadius(nn.Module):
    stride = 1
    dtype: str = "float32"

class Base(nn.Module):
    stride = 1
    receptive_radius = 0

class CoarseGrid(Base):
    stride = 16
    dtype: str = "float32"

class NumericType(Base):
    dtype: type = jnp.float32

class TwiceAsLarge(Base):
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        return {"deblurred": nn.Dense(3)(x).repeat(2, 1)}

class OtherNames(Base):
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        return {"sharp": nn.Dense(3)(x)}

class Wide(Base):
    dtype: str = "float32"
    num_features: int = 3

    @nn.compact
    def __call__(self, x):
        return {"deblurred": nn.Dense(self.num_features)(x)}

class Failing(Base):
    dtype: str = "float32"

    def __call__(self, x):
        return {"deblurred": x / (1 / 0)}

def doubled(pred, target):
    return 2 * jnp.mean(jnp.abs(pred - target))
"""


# It also forgets what a test has imported.
pytestmark = pytest.mark.usefixtures("write_module")


@pytest.fixture
def module(write_module):
    """Writes the module; returns its name."""
    return write_module(MODULE)


def test_a_module_in_the_current_folder_is_imported(module):
    import_network(f"{module}:Plain")
    model = make_network(f"{module}:Plain", {"dtype": "bfloat16"})
    assert (type(model).__name__, model.dtype) == ("Plain", "bfloat16")
    import_loss(f"{module}:doubled")
    outputs, targets = {"sr": np.full((1, 8, 8, 3), 0.5)}, {"hr": np.zeros((1, 8, 8, 3))}
    options = {"deblurred": "l1", "alpha": 1.0, "eps": 1e-3}
    loss, _ = joint_loss(outputs, targets, sr=f"{module}:doubled", **options)
    # Twice the mean absolute error of 0.5.
    assert loss == 1.0


@pytest.mark.parametrize(
    "name, message",
    [
        ("absent_module:Plain", "no module absent_module in .*, and none is installed"),
        ("MODULE:Absent", "MODULE.py has no Absent"),
        ("MODULE:not_a_function", "expected a class derived from flax.linen.Module"),
        ("MODULE.py:Plain", "no module MODULE.py in"),
        ("a b:Plain", "'a b:Plain': expected a module and a name, such as my"),
        ("MODULE:", "expected a module and a name"),
    ],
)
def test_a_path_without_a_network_is_refused(module, name, message):
    with pytest.raises(InputError, match=message.replace("MODULE", module)):
        import_network(name.replace("MODULE", module))
    assert not any(":" in path for path in NETWORKS)


def test_a_module_without_a_file_is_named_itself():
    with pytest.raises(InputError, match="^sys:Shallow: sys has no Shallow$"):
        import_network("sys:Shallow")


def test_errors_in_a_module_are_one_line(module, tmp_path):
    (tmp_path / f"{module}_b.py").write_text("import absent_library\n")
    message = r"cannot be imported \(ModuleNotFoundError: No module named 'absent_libr"
    with pytest.raises(InputError, match=message):
        import_network(f"{module}_b:Plain")
    with pytest.raises(InputError, match="expected a function of"):
        import_loss(f"{module}:not_a_function")


def test_a_network_without_a_needed_attribute_is_refused(module):
    import_network(f"{module}:NoRadius")
    message = (
        f"{module}:NoRadius has no attribute 'receptive_radius'; a network needs dtype,"
        " stride, receptive_radius"
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        make_network(f"{module}:NoRadius", {})


@pytest.mark.parametrize(
    "name, message",
    [
        ("CoarseGrid", "stride=16: expected a divisor of 8"),
        ("NumericType", "dtype=.*float32.*: expected text, a number or a tuple"),
    ],
)
def test_a_network_that_the_project_cannot_use_is_refused(module, name, message):
    import_network(f"{module}:{name}")
    with pytest.raises(InputError, match=message):
        make_network(f"{module}:{name}", {})


@pytest.mark.parametrize(
    "name, message",
    [
        ("TwiceAsLarge", r"'deblurred' has the shape \(1, 16, 8, 3\) .*\(1, 8, 8, 3\)"),
        ("OtherNames", "its outputs are sharp; expected sr or deblurred"),
        (
            "Wide",
            "num_features=3, but there are only 2 arrays of parameters; a tup",
        ),
        ("Failing", r"cannot be computed with these values \(ZeroDivisionError: "),
    ],
)
def test_wrong_outputs_are_named_before_a_run_begins(module, name, message, tmp_path):
    import_network(f"{module}:{name}")
    config = tiny_config(tmp_path)
    config.network = f"{module}:{name}"
    config.model = ml_collections.ConfigDict({"dtype": "float32"})
    with pytest.raises(InputError, match=message):
        config_checks.check(config)


OWN_CONFIG = f"""
import ml_collections
from configs import vdsr

def get_config():
    config = vdsr.get_config().unlock()
    config.name, config.network = "Mine", {PATH!r}
    config.model = ml_collections.ConfigDict({{"dtype": "float32"}})
    return config.lock()
"""


@pytest.fixture
def run(call, tmp_path, monkeypatch):
    """Makes the workdir of a run that train.py starts, with untrained weights."""

    def save_untrained(config, workdir, **_):
        config_checks.check(config)
        model = make_network(config.network, config.model)
        params = init_params(model, jax.random.key(3))
        state = create_train_state(params, optax.adam(1e-3))
        progress = {"sums": {}, "count": 0, "bad_in_row": 0}
        with Checkpoints(workdir) as checkpoints:
            checkpoints.save(state, config, progress=progress, metrics=None)

    monkeypatch.setattr(loop, "train_and_evaluate", save_untrained)
    (tmp_path / "own.py").write_text(OWN_CONFIG)
    workdir = tmp_path / "run"
    code, _, err = call(
        "train", f"--config={tmp_path / 'own.py'}", f"--workdir={workdir}"
    )
    assert code == 0, err
    NETWORKS.pop(PATH)
    return workdir


def test_a_network_by_path_works_in_every_command(call, run, photo, tmp_path):
    folder, weights = tmp_path / "photos", tmp_path / "mine.safetensors"
    folder.mkdir()
    image = folder / "photo.png"
    Image.fromarray(photo[:80, :96]).save(image)
    dataset = [f"--dataset=one={folder}", "--novalidation", "--sigmas=1"]
    for name, given in {
        "export": [f"--workdir={run}", f"--out={weights}", "--dtype=float32"],
        "evaluate": [f"--workdir={run}", f"--output_dir={tmp_path / 'scores'}", *dataset],
        "restore": [f"--workdir={run}", image],
        "restore --weights": [f"--weights={weights}", image, "--outputs=deblurred"],
    }.items():
        command, _, _ = name.partition(" ")
        code, _, err = call(command, *given)
        assert code == 1 and f"name it too: --network={PATH}, or in Python" in err, err
        code, out, err = call(command, *given, f"--network={PATH}")
        assert code == 0, err
        assert "Mine" in out or command == "restore"
        NETWORKS.pop(PATH)
    params = init_params(TwoOutputs(), jax.random.key(3))
    expected = Restorer(TwoOutputs(), params)(photo[:80, :96])
    for name, pixels in {"x4": expected.sr, "deblurred": expected.deblurred}.items():
        with Image.open(folder / f"photo_{name}.png") as result:
            np.testing.assert_array_equal(np.asarray(result), pixels)


def test_a_saved_config_imports_nothing_that_no_flag_names(call, module, tmp_path):
    config = tiny_config(tmp_path).unlock()
    config.network = f"{module}:Plain"
    config.model = ml_collections.ConfigDict({"dtype": "float32"})
    (tmp_path / "config.json").write_text(config.to_json())
    command = ["train", f"--workdir={tmp_path}", "--dry_run"]
    code, _, err = call(*command)
    assert code == 1
    assert err.endswith(f"name that too: --config.network={module}:Plain\n"), err
    assert module not in sys.modules
    code, _, err = call(*command, f"--config.network={module}:NoRadius")
    assert code == 1 and "has no attribute 'receptive_radius'" in err
    code, _, err = call(*command, f"--config.loss.sr={module}:not_a_function")
    assert code == 1 and "expected a function of (pred, target)" in err


def test_a_weights_file_imports_nothing(module, tmp_path):
    path = tmp_path / "w.safetensors"
    params = jax.device_get(init_params(TwoOutputs(), jax.random.key(0)))
    network = Network(TwoOutputs(), params, "mine", 1, (1.0, 2.0))
    with pytest.raises(InputError, match=r"import_network\('my_networks:TwoOutputs'\)"):
        write_network(path, network)
    assert not path.exists()
    import_network(PATH)
    write_network(path, network)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = {**file.metadata(), "network": f"{module}:Plain"}
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata)
    with pytest.raises(InputError, match=f"the network {module}:Plain is not imported"):
        read_network(path)
    assert module not in sys.modules
