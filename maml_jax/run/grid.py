"""The grid of a sweep: the runs of all its settings with all seeds."""

import ast
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.run.config import baseline_config, check_given, check_key, completed, flatten
from maml_jax.run.population import Run

Grid = Mapping[str, Sequence[Any]]  # config key -> values


class Member(NamedTuple):
    """A run of a sweep."""

    setting: dict[str, Any]  # of the grid
    run: Run


def parse_grid(texts: Sequence[str], config: ConfigDict) -> dict[str, list[Any]]:
    """The grid of texts such as "inner.step_size=0.01,0.02", with values of the types of the keys.

    Raises:
      UsageError: a text has another form, or a key or a value is not allowed.
    """
    known, grid = dict(flatten(config)), dict[str, list[Any]]()
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise UsageError(f"--grid={text} is no KEY=VALUE,VALUE; as inner.step_size=0.01,0.02")
        check_key(key)
        if key in grid:
            raise UsageError(f"--grid={text} gives {key} again; list all of its values once")
        if key in ("seed", "baselines"):
            raise UsageError(f"--grid={text}: {key} is no setting; use --seeds and --config.{key}")
        parts = re.split(r",(?![^(]*\))", values)  # not within a tuple
        grid[key] = [_parsed(text, part, known[key]) for part in parts]
        if len({repr(value) for value in grid[key]}) < len(parts):
            raise UsageError(f"--grid={text} gives a value twice; leave one out")
    return grid


def _parsed(text: str, part: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is str:
            return part
        value = ast.literal_eval(part)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"--grid={text}: {part!r} is no {kind.__name__}") from error
    return value


def parse_seeds(text: str) -> list[int]:
    """Seeds of a text: 0:10 (0 to 9), 5 or 0,3,7.

    Raises:
      UsageError: it has another form, or is empty.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match:
        seeds = list(range(int(match[1]), int(match[2])))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        seeds = list(dict.fromkeys(map(int, text.split(","))))
    else:
        seeds = []
    if not seeds:
        raise UsageError(f"--seeds={text} gives no seeds; use FIRST:END, as 0:10, or a list, 0,3,7")
    return seeds


def _name(setting: Mapping[str, Any]) -> str:
    """A folder's name, as inner.step_size=0.01,algorithm=maml."""
    text = ",".join(f"{key}={value}" for key, value in setting.items()) or "runs"
    return re.sub(r"[^\w.,=+-]", "_", text)


def members_of(
    config: ConfigDict, grid: Grid, seeds: Sequence[int], folder: pathlib.Path
) -> list[Member]:
    """All runs of a sweep: every setting of the grid with every seed.

    Raises:
      UsageError: names the setting that is not allowed.
    """
    members = []
    for values in itertools.product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        for seed in seeds:
            of_run = ConfigDict(config.to_dict())
            of_run.update_from_flattened_dict({**setting, "seed": seed})
            run = Run(of_run, folder / _name(setting) / f"seed_{seed}")
            members.append(Member(setting, run))
        try:
            check_given(of_run, grid)
        except UsageError as error:
            raise UsageError(f"setting {_name(setting)}: {error}") from error
    if len({member.run.workdir for member in members}) < len(members):
        raise UsageError("two settings of the grid have the same folder; leave one out")
    return members


def with_baselines(members: Sequence[Member]) -> list[Run]:
    """The runs of a sweep and their baselines, which are runs in folders below theirs."""
    runs = []
    for run in (member.run for member in members):
        runs.append(run)
        for name in run.config.baselines:
            of_baseline = baseline_config(completed(run.config), name)
            runs.append(Run(of_baseline, run.workdir / name))
    return runs
