"""docs/extending.md: its code registers one entry of each kind, which the binaries then use."""

import importlib
import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from maml_jax.inner.optimizers import INNER_OPTIMIZERS
from maml_jax.lengths.gates import GATES
from maml_jax.models.registry import MODELS
from maml_jax.run.algorithms import ALGORITHMS
from maml_jax.run.config import resolve
from maml_jax.run.problems import TASKS
from maml_jax.tasks.images.sources import DATASETS
from tests.run.runs import ENVIRONMENT, ROOT, TINY, call_all

REGISTRIES = {
    "task": TASKS,
    "model": MODELS,
    "data set": DATASETS,
    "inner optimizer": INNER_OPTIMIZERS,
    "gate": GATES,
    "algorithm": ALGORITHMS,
}
NAMES = {kind: set(registry) for kind, registry in REGISTRIES.items()}  # the package's own
TEXT = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(code) for language, _, code in BLOCKS if language == "bash"]


def overrides(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument.startswith("--config.")]


def workdir_of(arguments: list[str]) -> str:
    (workdir,) = (of for of in arguments if of.startswith("--workdir="))
    return workdir.removeprefix("--workdir=runs/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the files that the documentation describes."""
    folder = tmp_path_factory.mktemp("modules")
    for language, name, code in BLOCKS:
        if language == "python":
            with (folder / name).open("a") as file:
                file.write(code + "\n\n")
    return folder


def call(folder: pathlib.Path, *commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Runs programs that find the modules of the folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = ENVIRONMENT | {"PYTHONPATH": path, "MAML_JAX_CACHE_DIR": str(folder / "cache")}
    calls = call_all(commands, environment)
    for done in calls:
        assert done.returncode == 0, done.stderr
    return calls


def training(workdir: pathlib.Path, *arguments: str) -> list[str]:
    """The command of a tiny run; `arguments` begin with where the entries come from."""
    tiny = [f"--config.{key}={value}" for key, value in (TINY | {"num_meta_steps": 20}).items()]
    first, *others = arguments
    return ["train", first, f"--workdir={workdir}", *tiny, *others]


def record_of(done: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


def test_code_is_short_and_every_kind_has_a_section() -> None:
    for language, name, code in BLOCKS:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 20, f"{len(lines)} lines in {name}:\n{code}"
        assert all(len(line) <= 100 for line in lines)
        assert language == "bash" or name in ("my_module.py", "test_my_module.py", "my_config.py")
    sections = re.findall(r"^## An? (.*)$", TEXT, re.MULTILINE)
    assert sections == list(REGISTRIES)
    assert {row.split(" | ")[0].strip("| ") for row in TEXT.splitlines()[6:14]} >= set(sections)


@pytest.fixture
def my_module(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Imports the module in this process; what it registers is forgotten afterwards."""
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_entries", dict(registry))
    monkeypatch.syspath_prepend(str(folder))
    importlib.import_module("my_module")
    yield
    del sys.modules["my_module"]


@pytest.mark.usefixtures("my_module")
def test_the_module_adds_an_entry_of_every_kind() -> None:
    for kind, registry in REGISTRIES.items():
        assert set(registry) - NAMES[kind], kind


@pytest.mark.slow
@pytest.mark.usefixtures("my_module")
def test_checks_of_the_documentation_pass(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tests = runpy.run_path(str(folder / "test_my_module.py"))
    names = [name for name in tests if name.startswith("test_")]
    assert len(names) == len(REGISTRIES)
    for name in names:
        test = tests[name]
        test(tmp_path) if "tmp_path" in test.__code__.co_varnames else test()


@pytest.mark.usefixtures("my_module")
def test_a_config_file_that_imports_the_module(folder: pathlib.Path) -> None:
    config = runpy.run_path(str(folder / "my_config.py"))["get_config"]()
    assert resolve(config).own["lines"].scale == 1.0


@pytest.mark.slow
def test_one_run_with_entries_of_all_kinds_but_a_data_set(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The flags of the commands together, on the config file that imports the module."""
    workdir, imports = tmp_path / "run", "--import=my_module"
    (patterns,) = (of for of in COMMANDS if workdir_of(of) == "patterns")
    flags = [flag for of in COMMANDS if of is not patterns for flag in overrides(of)]
    trained, evaluated, reported = call(
        folder,
        training(workdir, f"--config={folder / 'my_config.py'}", *flags),
        ["evaluate", imports, f"--workdir={workdir}"],
        ["report", imports, f"--workdir={workdir}"],
    )
    config = json.loads((workdir / "config.json").read_text())
    assert config["lines"] == {"scale": 2.0}
    assert config["sines"] == {"width": 20}
    chosen = [config[of]["name"] for of in ("task", "model")]
    chosen += [config["inner"]["optimizer"], config["lengths"]["gate"], config["algorithm"]]
    assert chosen == ["lines", "sines", "normalized", "heavy_tailed", "kernel_maml"]
    record = record_of(trained)
    assert {name.split("/")[0] for name in record["learned"]} == {"step_size", "momentum"}
    assert all(path.endswith("/kernel") for path in record["length_counts"])
    assert record_of(evaluated)["loss"] == record["loss"]

    assert reported.stdout.strip().endswith("report.html")
    report = (workdir / "report.html").read_text()
    assert "lines.scale" in report
    assert "sines.width" in report
    assert "<h2>Final losses</h2>" in report


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=workdir_of)
def test_every_command_on_its_own(
    folder: pathlib.Path, tmp_path: pathlib.Path, arguments: list[str]
) -> None:
    assert arguments[:4] == ["python", "-m", "experiments.train", "--import=my_module"]
    (done,) = call(folder, training(tmp_path / "run", arguments[3], *overrides(arguments)))
    record = record_of(done)
    assert record["loss"]
    if workdir_of(arguments) == "patterns":
        assert record["query_shots"] == 5
        assert 0 <= record["accuracy"][-1] <= 1
