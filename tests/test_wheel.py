"""The wheel: maml_jax alone, usable from an empty environment."""

import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def run(*command: str | pathlib.Path, cwd: pathlib.Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_the_wheel_installs_maml_jax_alone_and_runs_the_readme(tmp_path: pathlib.Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("maml_jax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "maml_jax/run/weights/glyphs-5way-1shot.safetensors" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"maml_jax"}
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=tmp_path)
    first = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    (tmp_path / "example.md").write_text(first[1])
    run(python, "-m", "doctest", "example.md", cwd=tmp_path)
