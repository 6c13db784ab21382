"""Common parts of all commands: flags, messages, one-line errors, exit codes."""

import difflib
import io
import logging
import math
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict
from PIL import Image
from tqdm import tqdm

from eddsrn_jax.commands.extras import advice
from eddsrn_jax.commands.signals import (
    end_on_hangup,
    interruptible,
    raised_again,
)
from eddsrn_jax.commands.streams import flush_stdout, survive_closed_stderr, while_read
from eddsrn_jax.compiler import set_xla_flags, share_gpu_memory
from eddsrn_jax.config_values import flatten
from eddsrn_jax.distributed import lost_a_process
from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.machine import is_out_of_memory
from eddsrn_jax.paths import printable

_log = logging.getLogger(__name__)

_HELP = {"-h", "--help", "-help"}


class _AroundProgressBars(logging.Handler):
    """A logging handler that writes to stderr without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        lines = map(printable, self.format(record).split("\n"))
        tqdm.write("\n".join(lines), file=sys.stderr)


def _show_messages() -> None:
    """Shows the log messages of this package, but not those of its libraries."""
    # Orbax logs long messages, from its threads, about errors that it raises later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _show_unraisable
    # These warnings are about broken EXIF data and do not name the file. `read_picture`
    # logs them itself, with the file's name.
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\.|eddsrn_jax\.images"
    )
    # Its message about a large photo speaks of attacks.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    # tqdm's default lock is shared by processes, and Python may start one to watch it.
    tqdm.set_lock(threading.RLock())
    handler = _AroundProgressBars()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # JAX warns of a GPU that it does not use.
    for name, level in (("eddsrn_jax", logging.INFO), ("jax", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    # Paths may have bytes that are not UTF-8.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_unraisable(unraisable: Any) -> None:
    """Shows an unraisable exception, unless it comes from orbax's abandoned I/O.

    When one of many reads or writes fails, orbax does not wait for the others. Nothing is
    left to receive the errors that tensorstore reports for them.
    """
    if raised_again(unraisable.exc_value):
        return
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code and f"{os.sep}orbax{os.sep}" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run_command(
    main: Callable[..., int | None],
    flag_values: flags.FlagValues,
    *,
    takes_arguments: bool = False,
    reserves_memory: bool = False,
) -> NoReturn:
    """Runs a command as this process: log messages, XLA's flags, exit code.

    Args:
        main: see `execute`.
        flag_values: see `execute`.
        takes_arguments: see `execute`.
        reserves_memory: whether the command takes most of a GPU's memory at its start.
    """
    with interruptible():
        end_on_hangup()
        survive_closed_stderr()
        _show_messages()
        set_xla_flags()
        if not reserves_memory:
            share_gpu_memory()
    # SIGTERM unwinds the stack, as Ctrl-C does, so that no temporary file is left.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(_leave(execute(main, flag_values, takes_arguments=takes_arguments)))


def execute(
    main: Callable[..., int | None],
    flag_values: flags.FlagValues,
    *,
    takes_arguments: bool = False,
) -> int:
    """Parses `sys.argv`, calls a command's main function and returns the exit code.

    An error that the user can fix gives one line on stderr. The exit code is then 1, or 2
    if the flags or arguments are wrong. Any other error is a defect, and is raised.

    Args:
        main: main function; returns the exit code, or None for 0. Its module's docstring
            is the head of the command's help.
        flag_values: flags of the command.
        takes_arguments: whether to call `main` with the list of arguments after the
            flags; if False, such arguments are an error.
    """
    try:
        _, *arguments = _parse_flags(main, flag_values)
        if takes_arguments:
            return main(arguments) or 0
        if arguments:
            raise UsageError(f"unexpected arguments: {' '.join(arguments)}")
        return main() or 0
    except BrokenPipeError:
        # Nobody reads the output any more, as with `| head`.
        return 0
    except (InputError, OSError, FloatingPointError) as error:
        _show_error(error)
        return 2 if isinstance(error, UsageError) else 1
    except ModuleNotFoundError as error:
        if error.name is None or not advice(error.name):
            raise
        _show_error(f"{error.name} is not installed; {advice(error.name)}")
        return 1
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        if lost_a_process(error):
            reason = "another process of this run has ended or is unreachable"
        elif is_out_of_memory(error):
            reason = "the device has too little free memory"
        else:
            raise
        _show_error(f"{reason}: {first}")
        return 1
    except (RuntimeError, AssertionError) as error:
        if (reason := _unusable_system(error)) is None:
            raise
        _show_error(reason)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        return error.code


def _unusable_system(error: Exception) -> str | None:
    """Returns the reason if the system cannot run the command; None for a defect."""
    if "home directory" in str(error):
        return "the home folder of a path that begins with ~ is unknown"
    *_, last = traceback.extract_tb(error.__traceback__)
    if last.filename.endswith("xla_bridge.py"):
        # The message is empty if the machine has no GPU.
        reason = (str(error) or "none is found").splitlines()[0]
        platforms = jax.config.values["jax_platforms"] or ""
        return f"JAX_PLATFORMS={platforms}: no device can be used ({reason})"
    return None


def _leave(code: int) -> int:
    """Writes the rest of the output, and returns the exit code.

    In a multi-process run the process exits here; a normal exit would wait for others. An
    interrupted process exits here too: its threads may still compute, and crash when
    Python ends.
    """
    if problem := flush_stdout():
        _show_error(problem)
        code = code or 1
    interrupted = code in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    if interrupted or jax.distributed.is_initialized():
        os._exit(code)
    return code


def _show_error(error: object) -> None:
    print(f"error: {printable(str(error))}", file=sys.stderr)


def _show_help(main: Callable[..., Any], flag_values: flags.FlagValues) -> None:
    """Prints a command's help, followed by the values of --config if that is given."""
    print(sys.modules[main.__module__].__doc__)
    print(flag_values.get_help(include_special_flags=False))
    if any(argument.startswith("--config=") for argument in sys.argv):
        flag_values([argument for argument in sys.argv if argument not in _HELP])
        print("\nThe values of this config, each of which is a flag too:")
        for name, value in flatten(flag_values["config"].value).items():
            print(f"  --config.{name}={value}")


def _parse_flags(main: Callable[..., Any], flag_values: flags.FlagValues) -> list[str]:
    """Parses `sys.argv`; errors of absl and ml_collections become one line."""
    try:
        if _HELP & {*sys.argv[1:]}:
            with while_read():
                _show_help(main, flag_values)
            sys.exit(0)
        arguments = flag_values(sys.argv)
        for name, value in flag_values.flag_values_dict().items():
            # The bounds of a flag do not exclude NaN.
            if isinstance(value, float) and math.isnan(value):
                raise flags.Error(f"flag --{name}={value}: expected a number")
            # A variable of a shell that is not set, for example. Some values of a config
            # may be empty.
            given = flag_values[name].present and not name.startswith("config.")
            if given and (value in ("", []) or (isinstance(value, list) and "" in value)):
                raise flags.Error(f"flag --{name}=: expected a value, got none")
        return arguments
    except InputError:
        raise
    except flags.Error as error:
        message = str(error)
        unknown = r"Unknown command line flag '(?:no)?(config\.[\w.]+)'"
        if found := re.match(unknown, message):
            message = f"--{found[1]} needs --config, which must come before it"
        raise UsageError(" ".join(message.split())) from error
    except Exception as error:
        # Parsing the flags runs the config file and sets its values, so any exception
        # can occur.
        reason = error
        while isinstance(reason, Exception) and reason.args:
            reason = reason.args[0]
        place = _place(error)
        text = ". ".join(str(reason).splitlines())
        text = _without_fields(text)
        if "id you mean" not in text:
            text = _unknown_override(flag_values) or text
        raise UsageError(f"--config: {text}{place}") from error


def _without_fields(text: str) -> str:
    """Removes the whole config from ml_collections' error about an unknown key."""
    found = re.match(r'Key "(.*)" does not exist .*Other fields present: "(.*)', text)
    if not found:
        return text
    names = re.findall(r"'(\w+)':", found[2]) or re.findall(r"(?:^|\. )(\w+):", found[2])
    return f"unknown config value {found[1]!r}{_advice(found[1], names)}"


def _unknown_override(flag_values: flags.FlagValues) -> str | None:
    """Describes the first config value in `sys.argv` that the config does not have."""
    for argument in sys.argv[1:]:
        place = re.match(r"--?config\.([^=]+)", argument)
        file = re.search(r"(?:^|\0)--?config[=\0]([^\0]+)", "\0".join(sys.argv[1:]))
        if not (place and file):
            continue
        try:
            section, path = flag_values["config"].parser.parse(file[1]), "config"
        except Exception:
            # The error of the config itself is shown.
            return None
        for key in place[1].split("."):
            if not isinstance(section, ConfigDict) or key not in section:
                names = list(section) if isinstance(section, ConfigDict) else []
                return f"{path} has no value {key!r}{_advice(key, names)}"
            section, path = section[key], f"{path}.{key}"
    return None


def _advice(key: str, names: list[str]) -> str:
    """Returns the end of an error: the name that is nearest to a key, or all names."""
    near = [name for name in names if "".join(x[:1] for x in name.split("_")) == key]
    near = near or difflib.get_close_matches(key, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; it has {', '.join(names)}" if names else ""


def _place(error: Exception) -> str:
    """Returns where in a config file an error was raised; empty if it was elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    # All frames are left out if this package lies in site-packages itself.
    own = [x for x in frames if not re.search("^<|site-packages", x.filename)]
    if not own or os.path.dirname(own[-1].filename) == os.path.dirname(__file__):
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno})"
