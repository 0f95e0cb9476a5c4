"""The pages of the site are complete: public names, config keys, and messages that exist."""

import ast
import importlib
import inspect
import pathlib
import re
import runpy
import shlex
from collections import Counter

import pytest

from experiments.publish import config_tables
from maml_jax.models import MODELS
from maml_jax.run import TASKS
from maml_jax.run.config import check_given, default_config, flatten

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Packages list their public names in __all__; in these modules every name without _ is public.
PACKAGES = (
    "",
    "inner",
    "inner.optimizers",
    "lengths",
    "meta",
    "models",
    "parallel",
    "rl",
    "run",
    "tasks",
)
MODULES = ("errors", "keys", "parallel.hosts", "params", "settings", "testing", "types")
DIRECTIVE = re.compile(r"^\.\. (auto(?:class|function|module)|py:data):: (\S+)$", re.MULTILINE)


def defined_in(module: object) -> list[str]:
    """Names of the public classes and functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "") == getattr(module, "__name__", None)
        and (inspect.isclass(value) or inspect.isfunction(value))
    ]


def documented() -> list[int]:
    """Identities of the objects on the pages of the API reference."""
    found = []
    for page in (DOCS / "api").glob("*.md"):
        text = page.read_text()
        for kind, path in DIRECTIVE.findall(text):
            if kind == "automodule":
                module = importlib.import_module(path)
                after = text.split(f":: {path}\n", 1)[1].split("```", 1)[0]
                left_out = re.findall(r":exclude-members: (.*)", after)
                names = set(defined_in(module)) - set(", ".join(left_out).split(", "))
                if ":no-members:" not in after:
                    found += [id(getattr(module, name)) for name in names]
            else:
                owner, _, name = path.rpartition(".")
                found.append(id(getattr(importlib.import_module(owner), name)))
    return found


def test_every_public_name_is_documented_once() -> None:
    public = {}
    for package in PACKAGES:
        module = importlib.import_module(f"maml_jax.{package}".rstrip("."))
        values = {name: getattr(module, name) for name in module.__all__}
        public |= {
            f"{module.__name__}.{n}": v for n, v in values.items() if not inspect.ismodule(v)
        }
    for name in MODULES:
        module = importlib.import_module(f"maml_jax.{name}")
        public |= {f"{module.__name__}.{n}": getattr(module, n) for n in defined_in(module)}
    pages = Counter(documented())
    assert not [name for name, value in public.items() if not pages[id(value)]]
    assert not [name for name, value in public.items() if pages[id(value)] > 1]


def test_every_config_key_is_described_once() -> None:
    page = (DOCS / "configuration.md").read_text()
    rows = Counter(re.findall(r"^\| `([a-z_.0-9]+)` \|", page, re.MULTILINE))
    assert set(rows.values()) == {1}
    sections = {f"{name}." for name in config_tables._sections()}
    keys = {key for key, _ in flatten(default_config())}
    of_package = {k for k in keys if "." not in k or k[: k.index(".") + 1] in sections}
    assert set(rows) == of_package
    registered = set(TASKS) | set(MODELS)  # other tests may have added some
    assert {key.split(".")[0] for key in keys - of_package} <= registered


def commands() -> dict[str, list[str]]:
    """The train commands of the pages that need no module of a user, without repetitions."""
    found = {}
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                own = {"--import", "--config.model.name", "for", "do"}
                if "$" in line:  # of a loop of the shell
                    continue
                if "experiments.train" in words and not own & {w.split("=")[0] for w in words}:
                    found[line.strip()] = words
    return found


@pytest.mark.parametrize("words", commands().values(), ids=" ".join)
def test_commands_have_cards_and_keys_that_have_an_effect(words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words if re.match(r"--[\w.]+=", word))
    path, _, variant = given.get("--config", "configs/sinusoid.py").partition(":")
    config = runpy.run_path(str(ROOT / path))["get_config"](*[variant] * bool(variant))
    keys = {k.removeprefix("--config."): v for k, v in given.items() if k.startswith("--config.")}
    defaults = dict(flatten(config))
    for key, value in keys.items():
        typed = value if isinstance(defaults[key], str) else ast.literal_eval(value)
        config.update_from_flattened_dict({key: typed})
    check_given(config, keys)


def messages() -> list[str]:
    """The texts of the sources, with … for what is filled in."""
    texts = []
    for folder in ("maml_jax", "experiments"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                if all(isinstance(part, ast.Constant | ast.FormattedValue) for part in parts):
                    texts.append(
                        "".join(
                            str(getattr(part, "value", ""))
                            if isinstance(part, ast.Constant)
                            else "…"
                            for part in parts
                        )
                    )
    return texts


@pytest.mark.parametrize("page", ["troubleshooting.md"])
def test_messages_of_the_page_are_those_of_the_code(page: str) -> None:
    quoted = re.findall(r"^`(.+)`\n:", (DOCS / page).read_text(), re.MULTILINE)
    assert len(quoted) > 20
    everything = "\n".join(messages())
    for message in quoted:
        pattern = ".*".join(map(re.escape, message.split("…")))
        assert re.search(pattern, everything), message
