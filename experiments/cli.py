"""What all binaries share: errors as one line, exit codes, checked config flags."""

import importlib
import os
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable
from logging import Formatter
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.process import FolderParser, ending_in_one_line, prepare_streams, report
from maml_jax.errors import UsageError
from maml_jax.parallel.hosts import is_writer, wait_for_writer
from maml_jax.run import provenance
from maml_jax.run.config import check_given, check_key, default_config, describe_keys, flatten
from maml_jax.run.files import dumps, local_folder
from maml_jax.run.formats import adaptation_table
from maml_jax.run.mirror import mirrored
from maml_jax.tasks.images.cache import find_cache_dir

_CARD = "configs/sinusoid.py"  # where --config names none

flags.DEFINE_list("import", [], "modules to import first: they register tasks, models and others")
flags.DEFINE_bool("version", False, "prints versions and devices, as a report of an issue needs")


def define_workdir() -> flags.FlagHolder[str]:
    """The --workdir flag."""
    import_modules()
    flag: flags.FlagHolder[str] = flags.DEFINE(
        FolderParser(),
        "workdir",
        None,
        "folder of the run: config, checkpoints, metrics, report",
        required=True,
    )
    return flag


def _values_of(flag: str) -> list[str]:
    """The values of a flag on the command line, before absl parses it."""
    values = []
    for argument, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=False):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == flag:
            values.append(value if equals else following)
    return values


def imported_modules() -> list[str]:
    """The modules of --import."""
    return [name for value in _values_of("import") for name in value.split(",")]


def import_modules() -> None:
    """Imports the modules of --import, before the flags are parsed that depend on them."""
    for module in imported_modules():
        try:
            importlib.import_module(module)
        except ImportError as error:
            message = f"--import={module} cannot be imported ({error}); give the name of a module"
            sys.exit(report(UsageError(message), 2))


def define_config() -> flags.FlagHolder[ConfigDict]:
    """The --config flag and --config.KEY overrides.

    Cards and keys are checked here, before ml_collections, whose messages are tracebacks.
    """
    import_modules()
    helps = any(argument.lstrip("-").startswith("help") for argument in sys.argv[1:])
    default = [_CARD] if helps and pathlib.Path(_CARD).is_file() else []
    card, config = "the package", None
    try:
        for card in _values_of("config") or default:
            config = _check_card(card)
        for argument in sys.argv[1:]:
            name = argument.lstrip("-").partition("=")[0]
            if name.startswith("config."):
                check_key(name.removeprefix("config."))
    except UsageError as error:
        sys.exit(report(error, 2))
    if helps:
        main = sys.modules["__main__"]
        keys = f"Keys of the config, with the values of {card}:\n\n{describe_keys(config)}"
        main.__doc__ = f"{main.__doc__}\n{keys}\n"
    flag: flags.FlagHolder[ConfigDict] = config_flags.DEFINE_config_file(
        "config",
        _CARD,
        "card, as configs/NAME.py or configs/NAME.py:VARIANT; --config.KEY=VALUE changes a key. "
        "The card is a Python program that is executed: use only cards that you trust",
    )
    return flag


def workdir_of(folder: str | pathlib.Path) -> pathlib.Path:
    """The workdir that this process works in; of several hosts, only the first has the given one.

    The processes have to be joined before; see `experiments.hosts.start`.
    """
    return mirrored(local_folder(folder))


def check_overrides(config: ConfigDict) -> None:
    """Checks that all --config.KEY have an effect on this config.

    Raises:
      UsageError: one has none; or the config is wrong.
    """
    check_given(config, config_flags.get_override_values(flags.FLAGS["config"]))


def whole_numbers(flag: flags.FlagHolder[list[str]]) -> list[int]:
    """Of a list flag.

    Raises:
      UsageError: an entry is no whole number.
    """
    if not all(entry.isdigit() for entry in flag.value):
        raise UsageError(
            f"--{flag.name}={','.join(flag.value)} is not a list of whole numbers, as 5,10"
        )
    return [int(entry) for entry in flag.value]


def print_record(record: dict[str, Any]) -> None:
    """A table of the adaptation, then all as one line of JSON; of several processes, once."""
    if not is_writer():
        return
    print(adaptation_table(record))
    print(dumps(record))


def _check_card(value: str) -> ConfigDict:
    """The config of a card."""
    path, _, variant = value.partition(":")
    if not pathlib.Path(path).is_file():
        cards = ", ".join(sorted(str(p) for p in pathlib.Path("configs").glob("[a-z]*.py")))
        known = f"there are: {cards}" if cards else "run from the folder that holds configs/"
        raise UsageError(f"config file {path!r} does not exist; {known}")
    try:
        values = runpy.run_path(path)
        if "get_config" not in values:
            raise UsageError(f"config file {path!r} has no function get_config(); see configs/")
        config = values["get_config"](*([variant] if variant else []))
    except UsageError:
        raise
    except Exception as error:
        of = traceback.extract_tb(error.__traceback__)[-1]
        line = getattr(error, "lineno", None) or of.lineno
        raise UsageError(
            f"config file {path!r} cannot be used with variant {variant!r} "
            f"({type(error).__name__} in line {line} of {pathlib.Path(of.filename).name}: {error})"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UsageError(
            f"get_config() of {path!r} returns {type(config).__name__}; return a ConfigDict, which "
            "begins as maml_jax.run.default_config()"
        )
    return config


def prepare_jax(programs: str | None = None) -> None:
    """Settings of every process that trains; `programs` is a folder for compiled programs."""
    logging.set_verbosity(logging.WARNING)
    # Image pools are constants of the programs: CIFAR-FS compiles in 2 s instead of 15.
    jax.config.update("jax_use_simplified_jaxpr_constants", True)
    if "JAX_DEFAULT_MATMUL_PRECISION" not in os.environ:  # GPUs would round float32 to 10 bits
        jax.config.update("jax_default_matmul_precision", "float32")
    if programs is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs = _programs_folder()
    if programs is not None:
        jax.config.update("jax_compilation_cache_dir", programs)


def _programs_folder() -> str | None:
    """Where compiled programs are kept for the next start; None if nothing can be written there."""
    try:
        folder = find_cache_dir("") / "programs"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


def run(main: Callable[[list[str]], Any], *, takes_arguments: bool = False) -> None:
    """app.run, with one line on stderr and an exit code where it fails."""

    def checked(arguments: list[str]) -> None:
        if arguments[1:] and not takes_arguments:
            raise UsageError(f"unexpected argument {arguments[1]!r}; flags begin with --")
        if hosts is not None:
            hosts.start()
        main(arguments)
        wait_for_writer()

    hosts = sys.modules.get("experiments.hosts")  # of commands that run on several
    if hosts is not None and hosts.is_distributed(sys.argv) and not hosts.is_supervised():
        sys.exit(hosts.supervise(provenance.module()))
    logging.use_absl_handler()  # instead of one that orbax's import adds: messages appear once
    logging.get_absl_handler().setFormatter(Formatter("%(message)s"))
    prepare_streams()
    for name in {"workdir", "config", "import", "version"} & set(
        flags.FLAGS
    ):  # else --help leaves them out
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    prepare_jax()
    with ending_in_one_line():
        app.run(checked, flags_parser=_parse)


def _without_repeated_tuples(arguments: list[str]) -> list[str]:
    """Leaves the last of several flags for one tuple, whose values would be joined."""
    tuples = {f"config.{key}" for key, of in flatten(default_config()) if isinstance(of, tuple)}
    last: dict[str, str] = {}
    others = []
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in tuples:
            last[name] = value if equals else next(remaining, "")
        else:
            others.append(argument)
    return [*others, *(f"--{name}={value}" for name, value in last.items())]


def _parse(arguments: list[str]) -> list[str]:
    if "--version" in arguments:
        print(provenance.report())
        sys.exit(0)
    try:
        return list(flags.FLAGS(_without_repeated_tuples(arguments)))
    except flags.Error as error:
        sys.exit(report(error, 2))
