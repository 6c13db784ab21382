"""The flag --config: a config that comes with the project, by name, or a file."""

import sys
import types
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from eddsrn_jax.paths import expand_home

_PACKAGE = Path(__file__).parents[1]
# A wheel has the configs inside the package, a clone beside it.
_INSIDE, _BESIDE = _PACKAGE / "configs", _PACKAGE.parent / "configs"
FOLDER = _INSIDE if _INSIDE.is_dir() else _BESIDE


def define_config_flag(flag_values: flags.FlagValues, help: str) -> flags.FlagHolder[Any]:
    """Defines --config and the flags --config.NAME that change its values."""
    holder = config_flags.DEFINE_config_file(
        "config", None, help, lock_config=True, flag_values=flag_values
    )
    flag_values["config"].parser = _ConfigParser("config")
    return holder


def config_name(flag_values: flags.FlagValues) -> str:
    """Returns the given config's name, followed by its size if one is given."""
    given = config_flags.get_config_filename(flag_values["config"])
    path, _, size = given.partition(":")
    return "-".join(filter(None, [Path(path).stem, size]))


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
        included = FOLDER / f"{path.stem}.py"
        if included.is_file():
            return included
    message = f"--config={given}: no such file"
    if path.name == given and not path.suffix:
        # The others are common parts of these.
        files = [x for x in FOLDER.glob("*.py") if "def get_config(" in x.read_text()]
        names = sorted(file.stem for file in files)
        message += f" or config; the included configs are {', '.join(names)}"
    raise flags.Error(message)


class _ConfigParser(ConfigFileFlagParser):
    """Parses the value of --config, which may be followed by a size: srresnet:lite."""

    def parse(self, path: str) -> Any:
        given, colon, size = path.partition(":")
        # Configs import each other from a package of this name, in a clone and elsewhere.
        package = types.ModuleType("configs")
        package.__path__ = [str(FOLDER)]
        sys.modules.setdefault("configs", package)
        return super().parse(f"{find_config(given)}{colon}{size}")
