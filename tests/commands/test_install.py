"""Tests of installed copies: packages, configs, commands."""

import fcntl
import importlib
import ntpath
import os
import shutil
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
from absl import flags
from packaging.requirements import Requirement
from processes import ROOT

import eddsrn_jax
import eddsrn_jax.__main__ as entry
from eddsrn_jax import files, own_code
from eddsrn_jax.commands import config_flag
from eddsrn_jax.commands.command_line import execute
from eddsrn_jax.commands.network_flags import import_own_networks
from eddsrn_jax.data.source_files import import_tensorflow
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import NETWORKS

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(name):
    """Returns the requirements in a file, by the names of the packages."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def test_wheel_has_every_folder_of_modules():
    folders = {path.parent for path in (ROOT / "eddsrn_jax").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert {*listed} == names | {"eddsrn_jax.configs"}
    assert len(listed) == len({*listed})


def test_wheel_has_every_file_that_is_no_module():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]["eddsrn_jax"]
    found = {path for pattern in data for path in (ROOT / "eddsrn_jax").glob(pattern)}
    others = {
        path
        for path in (ROOT / "eddsrn_jax").rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        # Those come with the repository only.
        and path.parent.name != "table1"
    }
    assert found == others


def test_restoring_needs_no_package_of_training_or_testing():
    restore, train, dev = map(requirements, ("restore", "train", "dev"))
    assert "pytest" in dev and "scikit-image" in train
    assert not {*restore} & {*train, *dev, *requirements("demo")}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    included = [line for line in lines if line.startswith("-r")]
    assert included == ["-r requirements/restore.txt", "-r requirements/train.txt"]


@pytest.mark.parametrize(
    "python, system, machine, expected",
    [
        ("3.11", "linux", "x86_64", ["tensorflow-cpu"]),
        ("3.13", "linux", "aarch64", ["tensorflow"]),
        ("3.13", "darwin", "arm64", ["tensorflow"]),
        ("3.14", "linux", "x86_64", ["grain"]),
        ("3.14", "darwin", "arm64", ["grain"]),
    ],
)
def test_tensorflow_or_grain_is_required_to_stream_crops(
    python, system, machine, expected
):
    environment = {"python_version": python, "sys_platform": system}
    environment["platform_machine"] = machine
    chosen = [
        name
        for name, requirement in requirements("train").items()
        if name in ("tensorflow", "tensorflow-cpu", "grain")
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    assert chosen == expected


def test_older_python_gets_an_error_that_names_the_needed_version(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(ImportError, match=r"needs Python 3\.11 or newer; .* 3\.10$"):
        importlib.reload(eddsrn_jax)


@pytest.mark.parametrize(
    "given", ["eddsrn_lite", "eddsrn_lite.py", "configs/eddsrn_lite.py"]
)
def test_included_configs_are_found_in_any_folder(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_flag.find_config(given) == ROOT / "configs" / "eddsrn_lite.py"


def test_own_config_file_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "eddsrn.py").touch()
    found = config_flag.find_config("configs/eddsrn.py")
    assert found.resolve() == tmp_path / "configs" / "eddsrn.py"


@pytest.mark.parametrize(
    "given, message",
    [
        ("absent", r"--config=absent: no such file or config; .* scgan, srresnet, "),
        ("configs/absent.py", r"--config=configs/absent.py: no such file$"),
        ("mine/eddsrn.py", r"--config=mine/eddsrn.py: no such file$"),
    ],
)
def test_unknown_configs_are_refused(given, message):
    with pytest.raises(flags.Error, match=message):
        config_flag.find_config(given)


@pytest.fixture
def without_configs(monkeypatch):
    """Makes `configs` a package that has not been imported yet and is on no path."""
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "configs"]:
        del sys.modules[name]


def test_configs_of_a_wheel_import_each_other(tmp_path, monkeypatch, without_configs):
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder, ignore=shutil.ignore_patterns("__*"))
    monkeypatch.setattr(config_flag, "CONFIGS", folder)
    monkeypatch.setattr(sys, "argv", ["train", "--config=quickstart"])
    monkeypatch.chdir(tmp_path.parent)
    values = flags.FlagValues()
    config = config_flag.define_config_flag(values, "Config.")
    values(sys.argv)
    assert config.value.data.source == "bundled"
    assert config.value.model.features == (32, 64, 96, 128)
    assert Path(sys.modules["configs.eddsrn_lite"].__file__).parent == folder


def test_own_networks_may_import_the_included_configs(
    tmp_path, monkeypatch, without_configs
):
    folder = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", folder, ignore=shutil.ignore_patterns("__*"))
    monkeypatch.setattr(own_code, "CONFIGS", folder)
    (tmp_path / "with_config.py").write_text(
        "from configs import quickstart\nfrom tiny import TwoOutputs"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import_own_networks(mock.Mock(network=["with_config:TwoOutputs"]))
    assert Path(sys.modules["configs.quickstart"].__file__).parent == folder
    NETWORKS.pop("with_config:TwoOutputs")


def test_a_config_imports_those_beside_it_and_modules_of_the_current_folder(
    tmp_path, monkeypatch, without_configs
):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "ours.py").write_text("STEPS = 123\n")
    (folder / "mine.py").write_text(
        "from configs import eddsrn_lite, ours\nfrom beside_the_run import SEED\n\n\n"
        "def get_config():\n    config = eddsrn_lite.get_config().unlock()\n"
        "    config.total_steps, config.seed = ours.STEPS, SEED\n    return config\n"
    )
    (tmp_path / "beside_the_run.py").write_text("SEED = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [x for x in sys.path if x not in ("", str(ROOT))])
    config = own_code.import_file(folder / "mine.py").get_config()
    assert (config.total_steps, config.seed, config.batch_size) == (123, 7, 8)


def test_a_config_by_name_takes_a_size_and_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--config=srresnet:lite", "--config.batch_size=3"]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config = config_flag.define_config_flag(values, "Config.")
    values(argv)
    assert config.value.name == "SRResNet lite"
    assert config.value.batch_size == 3
    assert config_flag.config_name(values) == "srresnet-lite"


@pytest.mark.parametrize(
    "given, file, sizes",
    [
        ("srresnet:lite", "srresnet", ["lite"]),
        (r"C:\mine\own.py", r"C:\mine\own.py", []),
        (r"C:\mine\own.py:small", r"C:\mine\own.py", ["small"]),
    ],
)
def test_the_colon_of_a_windows_drive_begins_no_size(given, file, sizes, monkeypatch):
    monkeypatch.setattr("os.path.splitdrive", ntpath.splitdrive)
    assert config_flag.split_size(given) == (file, sizes)


def test_a_config_file_may_have_any_name(tmp_path, monkeypatch):
    path = tmp_path / "my config.txt"
    path.write_text("from configs.vdsr import get_config")
    argv = ["train", f"--config={path}:lite"]
    monkeypatch.setattr(sys, "argv", argv)
    values = flags.FlagValues()
    config = config_flag.define_config_flag(values, "Config.")
    values(argv)
    assert config.value.name == "VDSR lite" and config.value.is_locked


def test_weights_of_the_included_table_are_found_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from configs import table1

    rows = table1.get_config().rows
    weights = [row.weights for row in rows.values() if row.method == "network"]
    assert len(weights) == 10
    assert all(Path(path).is_file() for path in weights)


@pytest.mark.parametrize(
    "module, extra",
    [("tensorboardX", "train"), ("skimage", "train"), ("gradio", "demo")],
)
def test_a_missing_extra_is_named_in_one_line(module, extra, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", ["train"])
    assert execute(lambda: importlib.import_module(module), flags.FlagValues()) == 1
    out, err = capsys.readouterr()
    advice = f'run pip install "eddsrn_jax[{extra}]"'
    assert (out, err) == ("", f"error: {module} is not installed; {advice}\n")


def test_a_missing_package_that_no_extra_installs_is_a_defect(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        execute(lambda: importlib.import_module("absent_module"), flags.FlagValues())


def test_a_dataset_that_needs_tensorflow_names_a_python_that_has_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(sys, "argv", ["train"])
    assert execute(import_tensorflow, flags.FlagValues()) == 1
    assert capsys.readouterr().err == (
        "error: tensorflow is not installed; TensorFlow has no build for this Python; use"
        " Python 3.13, or train on a folder\n"
    )


def test_help_lists_every_command(monkeypatch, capsys):
    for argument in ("help", "--help", "-h"):
        monkeypatch.setattr(sys, "argv", ["eddsrn", argument])
        entry.main()
    text = capsys.readouterr().out
    commands = ROOT / "eddsrn_jax" / "commands"
    names = [
        path.stem for path in commands.glob("*.py") if "\ndef run(" in path.read_text()
    ]
    assert sorted(names) == [
        *("demo", "doctor", "evaluate", "export", "restore", "train"),
    ]
    assert all(text.count(f"\n  {name} ") == 3 for name in names)


def test_help_of_a_command_is_that_commands_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eddsrn", "help", "doctor"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: eddsrn doctor")


def test_version_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eddsrn", "--version"])
    entry.main()
    assert capsys.readouterr().out == f"{eddsrn_jax.__version__}\n"


def test_unknown_command_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eddsrn", "repair"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'repair'\n")


def test_without_file_locks_a_folder_is_used_with_a_warning(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(tmp_path) as held:
        assert held is False
    assert f"{tmp_path} cannot be locked, so use it in one run only" in caplog.text


def test_written_files_are_flushed_through_a_handle_that_can_write(tmp_path, monkeypatch):
    modes = []

    def flush(number):
        modes.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", flush)
    files.write_text(tmp_path / "text", "é\n")
    assert modes == [os.O_RDWR]
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\n"


def test_a_lock_file_of_another_user_can_be_locked(monkeypatch, tmp_path):
    (tmp_path / ".lock").touch()
    opened = Path.open

    def refuse_writing(path, mode="r", **options):
        if mode == "w":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", refuse_writing)
    with files.locked(tmp_path, name=".lock") as held:
        assert held
        other = files.locked(tmp_path, name=".lock")
        with pytest.raises(InputError, match="another process"), other:
            pass
    with pytest.raises(PermissionError), files.locked(tmp_path, name=".absent"):
        pass
