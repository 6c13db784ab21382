"""The flag --config: an included config by name, a file, or the config of a run."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from eddsrn_jax.config_values import read_config
from eddsrn_jax.errors import UsageError
from eddsrn_jax.own_code import CONFIGS, import_file
from eddsrn_jax.paths import expand_home, workdir_path


class ResumableFlags(flags.FlagValues):
    """Flags of a command whose --config is by default the saved config of --workdir.

    The flags --config.NAME then change values of the saved config.
    """

    def __call__(self, argv: Sequence[str], known_only: bool = False) -> list[str]:
        # ml_collections looks for --config and its values in sys.argv.
        sys.argv = [argv[0], *_saved_config(argv), *argv[1:]]
        return super().__call__(sys.argv, known_only)


def _saved_config(argv: Sequence[str]) -> list[str]:
    """Returns ["--config=FILE"] for the config that the run in --workdir has saved.

    The list is empty if --config is given. It is empty too if no config is saved and no
    --config.NAME is given.

    Raises:
        UsageError: there is a --config.NAME, but no run whose config it could change.
        InputError: the saved config cannot be read.
    """
    joined = "\0".join(argv)
    if re.search(r"\0--?config(?:[=\0]|$)", joined):
        return []
    given = re.findall(r"\0--?workdir[=\0]([^\0]+)", joined)
    workdir = workdir_path(given[-1]) if given else None
    path = workdir / "config.json" if workdir else None
    if path is None or not path.is_file():
        if change := re.search(r"\0--?(?:no)?(config\.[^=\0]+)", joined):
            raise UsageError(f"--{change[1]}: {why_no_config(workdir)}")
        return []
    read_config(path)
    return [f"--config={path}"]


def why_no_config(workdir: Path | None) -> str:
    """Returns the reason why no run is resumed.

    Args:
        workdir: value of --workdir, which has no saved config; None if it is not given.
    """
    if workdir is None:
        return "give --config for a new run, or the --workdir of a run to resume"
    return (
        f"--workdir={workdir}: no run to resume (it has no config.json); give"
        " --config for a new run"
    )


def define_config_flag(flag_values: flags.FlagValues, help: str) -> flags.FlagHolder[Any]:
    """Defines --config and the flags --config.NAME that change its values."""
    holder = config_flags.DEFINE_config_file(
        "config", None, help, lock_config=True, flag_values=flag_values
    )
    flag_values["config"].parser = _ConfigParser("config")
    return holder


def config_name(flag_values: flags.FlagValues) -> str:
    """Returns the given config's name, followed by its size if one is given.

    The name of a run's saved config is that of its workdir.
    """
    given = config_flags.get_config_filename(flag_values["config"])
    if given.endswith(".json"):
        return Path(given).absolute().parent.name
    path, sizes = split_size(given)
    return "-".join([Path(path).stem, *sizes])


def split_size(given: str) -> tuple[str, list[str]]:
    """Splits "FILE:SIZE" into the file and a list of the size, which may be empty."""
    # On Windows the first colon can be that of a drive.
    drive, rest = os.path.splitdrive(given)
    path, *sizes = rest.split(":", 1)
    return drive + path, sizes


def find_config(given: str) -> Path:
    """Returns the file of a config.

    Args:
        given: path of a file; or name of an included config, such as "eddsrn_lite" or
            "configs/eddsrn_lite.py". A file in the current folder takes precedence.

    Raises:
        flags.Error: there is no such file, and no included config of that name.
    """
    path = expand_home(given)
    if path.is_file():
        return path
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py"):
        included = CONFIGS / f"{path.stem}.py"
        if included.is_file():
            return included
    message = f"--config={given}: no such file"
    if path.name == given and not path.suffix:
        # Files without get_config are parts that several configs share.
        files = [x for x in CONFIGS.glob("*.py") if "def get_config(" in x.read_text()]
        names = sorted(file.stem for file in files)
        message += f" or config; the included configs are {', '.join(names)}"
    raise flags.Error(message)


class _ConfigParser(ConfigFileFlagParser):
    """Parses the value of --config.

    It may be followed by a size, as in srresnet:lite, or be a run's config.json.
    """

    def parse(self, path: str) -> Any:
        if path.endswith(".json"):
            return read_config(expand_home(path))
        given, sizes = split_size(path)
        # ml_collections would take the colon of a Windows drive for that of a size.
        module = import_file(find_config(given))
        if not hasattr(module, "get_config"):
            raise flags.Error(f"--config={given}: the file has no function get_config")
        config = module.get_config(*sizes)
        return config.lock() if isinstance(config, ConfigDict) else config
