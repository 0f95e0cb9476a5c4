"""docs/own_data.md: its code runs, its split is read; tests/test_site.py tries its commands."""

import pathlib
import pickle
import re

import numpy as np

ROOT = pathlib.Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "own_data.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_conversion_of_pickles_and_the_split_are_read(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part, names in {"train": ["robin", "crow"], "val": ["wren"], "test": ["owl"]}.items():
        data = {
            "image_data": np.zeros((2 * len(names), 8, 8, 3), np.uint8),
            "class_dict": {name: [2 * i, 2 * i + 1] for i, name in enumerate(names)},
        }
        pathlib.Path(f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(data))
    (code,) = [code for _, language, code in BLOCKS if "import pickle" in code]
    exec(code, {})
    pools = load("npz:mini_imagenet.npz", split="split.csv")
    assert pools.classes == (("crow", "robin"), ("wren",), ("owl",))
    assert pools.train.counts.tolist() == [2, 2]
    (table,) = [code for _, _, code in BLOCKS if "class,split\n" in code]
    lines = "\n".join(line.strip() for line in table.splitlines()) + "\ncrow,train\n"
    pathlib.Path("other.csv").write_text(lines)
    assert load("npz:mini_imagenet.npz", split="other.csv").classes == pools.classes
