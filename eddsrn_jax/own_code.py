"""A user's own code: config files, and what import paths name.

Importing a module runs its code, and weights files, checkpoints and saved configs may be
untrusted. Therefore only paths that the user has named are imported: in a config file,
which is code itself, in a flag, or in a call.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eddsrn_jax.errors import InputError

_PACKAGE = Path(__file__).parent
# A wheel has the configs inside the package, a clone beside it.
_INSIDE, _BESIDE = _PACKAGE / "configs", _PACKAGE.parent / "configs"
CONFIGS = _INSIDE if _INSIDE.is_dir() else _BESIDE


def is_import_path(name: object) -> bool:
    """Returns whether a name is an import path such as mypackage.networks:Shallow."""
    return isinstance(name, str) and ":" in name


def import_file(file: Path) -> types.ModuleType:
    """Runs a file of Python code, whatever its extension; never one that a file names.

    It may import modules of the current folder, the included configs from `configs`, and
    first of all the configs beside it, if its folder has that name.

    Raises:
        Exception: any that the code raises.
    """
    _let_code_import(file.absolute().parent)
    loader = importlib.machinery.SourceFileLoader("own_file", str(file))
    spec = importlib.util.spec_from_file_location(loader.name, file, loader=loader)
    assert spec is not None, "there is a loader"
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their modules up.
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def import_object(path: str) -> Any:
    """Imports what an import path names; never call it with a path from a file.

    Args:
        path: module and name, such as "mypackage.networks:Shallow". The module is
            installed or in the current folder.

    Raises:
        InputError: there is no such module or name, or the module raises an error.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(
            f"{path!r}: expected a module and a name, such as mypackage.networks:Shallow"
        )
    here = os.getcwd()
    _let_code_import(CONFIGS)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # The module itself may import another one that is missing.
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        ):
            raise InputError(
                f"{path}: no module {error.name} in {here}, and none is installed"
            ) from error
        with explaining(f"{path}: {module_name} cannot be imported"):
            raise
    if not hasattr(module, name):
        place = getattr(module, "__file__", None) or module_name
        raise InputError(f"{path}: {place} has no {name}")
    return getattr(module, name)


def import_function(path: str, arguments: str) -> Callable[..., Any]:
    """Imports a function, see `import_object`.

    Args:
        path: import path that the user has named.
        arguments: the arguments that the function should take, for messages.

    Raises:
        InputError: see `import_object`; or the path is not that of a function.
    """
    function = import_object(path)
    if not callable(function):
        raise InputError(f"{path}: expected a function of {arguments}")
    return function


@contextlib.contextmanager
def explaining(problem: str) -> Iterator[None]:
    """Turns the errors of a user's own code, which may be any, into InputErrors.

    Args:
        problem: beginning of the message, which the error's own first line follows.

    Raises:
        InputError: the block raises an error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"{problem} ({reason})") from error


def _let_code_import(configs: Path) -> None:
    """Lets a user's code import modules of the current folder, and configs.

    Args:
        configs: folder whose configs take precedence over the included ones, if it has
            the name "configs".
    """
    here = os.getcwd()
    # The folder comes last, so that its files replace no installed module.
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    package = types.ModuleType("configs")
    package.__path__ = [str(CONFIGS)]
    package = sys.modules.setdefault("configs", package)
    if configs.name == "configs" and str(configs) not in package.__path__:
        package.__path__ = [str(configs), *package.__path__]
