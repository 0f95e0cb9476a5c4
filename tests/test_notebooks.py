"""Notebooks import the package, define no algorithm of their own, and run."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(notebook: pathlib.Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_exists_and_defines_nothing(notebook: pathlib.Path) -> None:
    nodes = list(ast.walk(ast.parse(code_of(notebook))))
    assert not [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    ours = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module != "IPython.display"]
    assert ours
    exec(compile(ast.Module(ours, []), str(notebook), "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: pathlib.Path) -> None:
    """Without IPython: its display is left out."""
    source = code_of(notebook).replace("from IPython.display import Image, display", "")
    source = f"Image = str\ndisplay = print\n{source}"
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert ".png" in done.stdout
