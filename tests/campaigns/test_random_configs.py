"""Random configs: each is refused in one line that names a key, or trains."""

import math
import pathlib
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from maml_jax.errors import DivergedError, UsageError
from maml_jax.run.build import build
from maml_jax.run.config import _fields, default_config, rule_of

BUILT, TRAINED = 1_000, 150
NAN, INF = math.nan, math.inf
NUMBERS = (0, 1, 2, 3, 5, 0.0, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0, 2.0, -1.0)
WIDTHS = ((), (4,), (4, 3), (2, 2, 2, 2))
COLOURS = ((), (0.5,), (0.5, 0.4, 0.3))
CHOICES: dict[str, tuple[Any, ...]] = {
    "model.hidden": WIDTHS,
    "model.widths": WIDTHS,
    "data.mean": COLOURS,
    "data.std": COLOURS,
    "data.split_fractions": ((0.4, 0.3, 0.3), (0.6, 0.2, 0.2), (0.5, 0.5)),
    "data.image_size": (0, 6, 16),
    "data.split": ("", "finn"),
    "data.splits_dir": ("",),
    "data.dir": ("",),
    "baselines": ((), ("pretrained",), ("oracle",)),
    "init_from": ("",),
    "task.ways": (2, 3, 50),
    "seed": (0, 2**32 - 1),
    "cpu_devices": (0,),  # the devices of this process are in use already
}
HOSTILE = (NAN, INF, -INF, -1, 2**31, 2**32, 1e-320, 1e300, "", "a", None, (), ("a",), (NAN,), True)
SMALL = {  # what keeps one run short
    "num_meta_steps": 2,
    "meta_batch_size": 8,  # over the forced devices
    "steps_per_dispatch": 1,
    "inner.num_steps": 2,
    "model.hidden": (4,),
    "model.filters": 2,
    "model.widths": (2, 2, 2, 2),
    "task.query_shots": 2,
    "task.shots": 1,
    "task.ways": 3,
    "eval.num_episodes": 2,
    "eval.shots": 1,
    "eval.query_shots": 1,
    "eval.num_steps": 2,
    "eval.chunk": 2,
    "data.split_fractions": (0.4, 0.3, 0.3),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
    np.savez(folder / "noise.npz", images=images, labels=np.repeat(np.arange(15), 4))
    return folder


def allowed(key: str) -> tuple[Any, ...]:
    """Values of which the rule of the key alone allows all."""
    rule, kind = rule_of(key, _fields()[key]), type(_fields()[key].default)
    if key in CHOICES:
        return CHOICES[key]
    if kind is bool:
        return (False, True)
    if kind is str:
        assert rule is not None, key
        return tuple(rule.allowed().removeprefix("one of ").split(", "))
    fitting = [number for number in NUMBERS if type(number) is kind]
    return tuple(number for number in fitting if rule is None or rule.holds(number))


def configs(data: pathlib.Path, seed: int) -> Iterator[tuple[ConfigDict, bool]]:
    """Random configs, and whether a value was put into them that no key may have."""
    generator = random.Random(seed)
    keys = [key for key in _fields() if key not in ("data.name", "data.cache_dir")]
    while True:
        config = ConfigDict(default_config().to_dict(), type_safe=False)
        changes: dict[str, Any] = dict(SMALL)
        for key in generator.sample(keys, generator.randint(1, 8)):
            changes[key] = generator.choice(allowed(key))
        if generator.random() < 0.5:
            changes["algorithm"] = generator.choice(allowed("algorithm"))
        if generator.random() < 0.5:  # convolutions take long to compile
            (name,) = generator.choices(("mlp", "conv4", "resnet12"), (20, 2, 1))
            changes |= {"task.name": "images", "model.name": name}
        hostile = generator.random() < 0.3
        if hostile:
            changes[generator.choice(keys)] = generator.choice(HOSTILE)
        changes |= {"data.name": f"npz:{data / 'noise.npz'}", "data.cache_dir": str(data / "cache")}
        unused = ("task.oracle",) if "model.name" in changes else ("data.", "task.ways")
        used = {key: value for key, value in changes.items() if not key.startswith(unused)}
        config.update_from_flattened_dict(used)
        yield config, hostile


@pytest.mark.slow
def test_random_configs_are_refused_in_one_line_or_train(data: pathlib.Path) -> None:
    counts: Counter[str] = Counter()
    for config, hostile in configs(data, seed=0):
        if counts["built"] + counts["refused"] >= BUILT and counts["trained"] >= TRAINED:
            break
        try:
            experiment = build(config)
        except UsageError as error:
            message = str(error)
            assert "\n" not in message, message
            assert "=" in message or "classes" in message, message
            counts["refused"] += 1
            continue
        counts["built"] += 1
        counts["built, with a hostile value"] += hostile
        if counts["trained"] >= TRAINED:
            continue
        try:
            state, metrics = experiment.train(experiment.init(), 2)
        except UsageError as error:
            counts["refused when traced"] += 1
            counts["lines"] += len(str(error).splitlines())
            continue
        except DivergedError:
            counts["diverged"] += 1
            continue
        counts["trained"] += 1
        assert int(state.step) == 2
        finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.meta_params.init))
        assert finite, config
        counts["with skipped updates"] += int(state.skipped) > 0
        assert set(metrics) >= {"loss", "query_loss"}
    assert counts["lines"] == counts["refused when traced"]
    print(dict(counts))
