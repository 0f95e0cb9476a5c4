"""Notebooks: they import what exists, open in Colab, and run at a small size.

The cell with the tag `parameters` holds the size of the published page, and its metadata `small` a
size that only shows that every cell runs.
"""

import ast
import pathlib
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")  # of the extra `test`
nbclient = pytest.importorskip("nbclient")

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAST = ("quickstart",)


def cells(notebook: Any, tag: str) -> list[Any]:
    """The code cells that have a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_anywhere_and_imports_what_exists(path: pathlib.Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    first, install = notebook.cells[:2]
    assert f"colab.research.google.com/github/OWNER/maml_jax/blob/main/notebooks/{path.name}" in (
        first.source
    )
    assert "TPU" in first.source
    assert [install] == cells(notebook, "install")
    assert "pip install" in install.source
    (parameters,) = cells(notebook, "parameters")
    names = [
        ast.unparse(ast.parse(code).body[0].targets[0])  # type: ignore[attr-defined]
        for code in (parameters.source, parameters.metadata["small"])
    ]
    assert names[0] == names[1]
    code = "\n".join(c.source for c in notebook.cells[2:] if c.cell_type == "code")
    imports = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.ImportFrom)]
    ours = [n for n in imports if (n.module or "").startswith("maml_jax")]
    exec(compile(ast.Module(ours, []), str(path), "exec"), {})  # type: ignore[arg-type]
    outside = {(n.module or "").split(".")[0] for n in imports} & {"configs", "experiments"}
    assert not outside  # the installed package has neither
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in FAST else pytest.mark.slow, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_a_notebook_runs(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # one device
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = cells(notebook, "parameters")
    parameters.source = parameters.metadata["small"]
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
