"""Imports run one way: from the shared modules up to the binaries, and never in a circle."""

import ast
import functools
import pathlib
from collections.abc import Iterator
from graphlib import TopologicalSorter

ROOT = pathlib.Path(__file__).parents[1]
# Each layer imports from itself and from those before it.
LAYERS = (
    ("types", "errors", "keys", "registry", "settings", "params", "checks"),
    ("lengths", "models", "tasks"),
    ("inner",),
    ("meta",),
    ("parallel",),
    ("rl",),
    ("run",),
    ("testing",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """Dotted name -> file, without the packages' own __init__ files."""
    files = (ROOT / "maml_jax").rglob("*.py")
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name: file for name, file in names.items() if not name.endswith("__init__")}


@functools.cache
def imports(file: pathlib.Path) -> frozenset[str]:
    """Modules of the package that a file imports, apart from those for type checking alone."""
    return frozenset(_imports(file))


def _imports(file: pathlib.Path) -> Iterator[str]:
    tree = ast.parse(file.read_text())
    for guarded in [node for node in ast.walk(tree) if isinstance(node, ast.If)]:
        if "TYPE_CHECKING" in ast.unparse(guarded.test):
            guarded.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("maml_jax"):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules() else str(node.module)


def test_every_module_has_a_layer() -> None:
    assert {name.split(".")[1] for name in modules()} == set(RANKS)


def test_a_layer_imports_no_later_one() -> None:
    for name, file in modules().items():
        for imported in imports(file):
            parts = imported.split(".")
            assert len(parts) == 1 or RANKS[parts[1]] <= RANKS[name.split(".")[1]], (name, imported)


def test_no_imports_are_circular() -> None:
    graph = {name: imports(file) for name, file in modules().items()}
    TopologicalSorter(graph).prepare()


def test_only_parallel_knows_of_devices() -> None:
    words = ("pmap", "psum", "NamedSharding", "jax.devices(", "shard_map")
    for name, file in modules().items():
        if not name.startswith(("maml_jax.parallel.", "maml_jax.run.provenance")):
            code = file.read_text()
            assert not [word for word in words if f"{word}" in code], name


def methods(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Public methods of all classes but protocols, whose docstring describes the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield method


def test_public_methods_have_docstrings() -> None:
    for name, file in modules().items():
        for method in methods(ast.parse(file.read_text())):
            assert ast.get_docstring(method), (name, method.name)
