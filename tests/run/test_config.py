"""Config keys, types, values; cards."""

import dataclasses
import json
import pathlib
import re
import runpy
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from maml_jax.errors import UsageError
from maml_jax.inner.optimizers.registry import INNER_OPTIMIZERS
from maml_jax.models.registry import MODELS, register_model
from maml_jax.run.config import (
    _fields,
    baseline_config,
    check_given,
    check_key,
    completed,
    default_config,
    describe_keys,
    differences,
    flatten,
    resolve,
    rule_of,
    without_unused,
)
from maml_jax.run.problems import TASKS, register_task
from maml_jax.run.spec import BASELINES
from maml_jax.run.unused import unused_keys
from maml_jax.settings import setting

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CARDS = [path for path in CONFIGS.glob("*.py") if path.stem[0] != "_"]

BAD = [
    ("algorithm", "mamml", "maml"),
    ("seed", -1, "0 to"),
    ("num_meta_steps", 0, "1 or more"),
    ("meta_batch_size", -5, "1 or more"),
    ("inner.num_steps", -2, "-1 or more"),
    ("inner.step_size", -0.1, "positive"),
    ("inner.step_size", float("nan"), "positive"),
    ("inner.optimizer", "sdg", "sgd"),
    ("inner.momentum", 1.0, "0 or more, below 1"),
    ("outer.learning_rate", 0.0, "positive"),
    ("outer.schedule", "cosin", "cosine"),
    ("outer.weight_decay", 0.1, "adamw"),
    ("model.hidden", (40, 0), "positive widths"),
    ("baselines", ("oracl",), "oracle"),
    ("lengths.gate", "rampe", "ramp"),
    ("lengths.granularity", "filter", "channel"),
    ("lengths.initial_length", -0.5, "-1"),
    ("lengths.budget", 1.0, "0 or more, below 1"),
    ("lengths.cost", "flops", "compute"),
    ("inner.step_sizes", "per_layer", "tensor"),
    ("model.name", "conv4", "mlp"),
    ("task.ways", 1, "2 or more"),
    ("data.rotation", "90", "per_class"),
    ("data.invert", "true", "auto, yes, no"),
    ("data.std", (0.0,), "positive numbers"),
    ("data.split_fractions", (0.5, 0.5), "add up to 1"),
    ("eval.num_episodes", 0, "1 or more"),
]


# Switches, and what the data set itself checks when it is loaded.
FREE = {"task.oracle", "model.max_pool", "init_from"} | {
    f"data.{key}" for key in ("name", "dir", "splits_dir", "cache_dir", "split", "follow_links")
}


def test_defaults_are_allowed_and_every_other_key_is_checked() -> None:
    resolve(default_config())
    free = {key for key, field in _fields().items() if rule_of(key, field) is None}
    assert free == FREE
    assert {key for key, _ in flatten(default_config())} == set(_fields())


def test_every_key_has_its_help() -> None:
    described = describe_keys().splitlines()
    for (key, field), line in zip(_fields().items(), described, strict=True):
        assert line.startswith(f"--config.{key}={field.default!r}: ")
        assert len(field.metadata["help"]) > 3


NAN, INF = float("nan"), float("inf")
HOSTILE = {  # type of the default -> values that no key of this type may have
    int: (2**32, -(2**31) - 1, 0.5, NAN, INF, -INF, True, "1", None, (1,)),
    float: (NAN, INF, -INF, 1e-320, 1e300, -1e300, "0.1", None, (0.1,)),
    tuple: (("a",) * 3, (NAN,) * 3, (1e999,) * 3, (1e-320,) * 3, ([],), (None,), ((1,),), 1, ""),
    str: ("unknown!", 1, None, ("a",)),
    bool: (0, "yes", None, (True,)),
}


@pytest.mark.parametrize("key", _fields())
def test_hostile_values_are_refused_by_name(key: str) -> None:
    kind = type(_fields()[key].default)
    for value in HOSTILE[kind]:
        if value == "unknown!" and key in FREE:
            continue
        config = ConfigDict(default_config().to_dict(), type_safe=False)
        config.update_from_flattened_dict({key: value})
        with pytest.raises(UsageError) as error:
            resolve(config)
        assert str(error.value).startswith(f"{key}={value!r} is "), value
        assert "\n" not in str(error.value)


def test_integers_end_where_their_type_does() -> None:
    config = default_config()
    config.num_meta_steps = 2**31
    with pytest.raises(UsageError, match="num_meta_steps=2147483648 is out of the range"):
        resolve(config)
    config.num_meta_steps, config.seed = 2**31 - 1, 2**32 - 1
    assert resolve(config).seed == 2**32 - 1


@pytest.mark.parametrize(("key", "value", "hint"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(key: str, value: object, hint: str) -> None:
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError) as error:
        resolve(config)
    message = str(error.value)
    assert key in message
    assert repr(value) in message or str(value) in message
    assert hint in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        (
            {"algorithm": "reptile", "lengths.gate": "ramp"},
            "for the initialization alone",
        ),
        ({"algorithm": "imaml", "inner.step_sizes": "tensor"}, "use 'none', 'fixed' and 'none'"),
        ({"algorithm": "imaml", "outer.objective": "multi_step"}, "outer.objective='final'"),
        ({"algorithm": "adaptive_k", "inner.num_steps": 0}, "inner.num_steps of 1 or more"),
        ({"algorithm": "pretrained", "lengths.gate": "ramp"}, "needs inner steps"),
        ({"algorithm": "adaptive_k", "inner.num_steps": 20}, "use 20 (inner.num_steps) or more"),
        ({"algorithm": "adaptive_k", "lengths.initial_length": 12.0}, "0 to inner.num_steps=10"),
        ({"algorithm": "adaptive_k", "lengths.gate": "survival"}, "'channel', 'tensor'"),
        ({"task.name": "images", "model.name": "conv4"}, "batch, support"),
        ({"inner.optimizer": "nadam"}, "use one of sgd, heavy_ball"),
        ({"inner.optimizer": "meta_curvature"}, "learn_optimizer='none'; use 'global'"),
        ({"lengths.budget": 0.5}, "no length is learned; set both to 0"),
        (
            {"algorithm": "adaptive_k", "lengths.budget": 0.5, "lengths.cost_weight": 0.1},
            "set one of them to 0",
        ),
        ({"inner.optimizer": "adam", "inner.learn_optimizer": "tensor"}, "nothing to learn"),
        (
            {"inner.optimizer": "chebyshev", "inner.learn_optimizer": "parameter"},
            "granularity of momentum, which inner.optimizer='chebyshev' does not have",
        ),
        (
            {
                "inner.optimizer": "heavy_ball",
                "inner.learn_optimizer": "tensor",
                "inner.momentum": 0.0,
            },
            "inner.momentum=0 cannot be learned",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(changes: dict, hint: str) -> None:
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=re.escape(hint)):
        resolve(config)


def test_a_wrong_type_and_a_missing_key_are_named() -> None:
    config = ConfigDict(default_config().to_dict() | {"num_meta_steps": "many"})
    with pytest.raises(UsageError, match="num_meta_steps='many' is of type str; give int"):
        resolve(config)
    config = default_config()
    with config.unlocked():
        del config.inner["momentum"]
    with pytest.raises(UsageError, match=r"lacks the key 'inner\.momentum'"):
        resolve(config)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("inner.num_stesp", "did you mean inner.num_steps?"),
        ("optimizer", "did you mean inner.optimizer or outer.optimizer?"),
        ("inner.lr", "--help lists the keys"),
        ("inner.rates", "it is called inner.step_sizes now"),
        ("halting.budget", "it is called lengths.budget now"),
        ("references", "it is called baselines now"),
        ("waves.x", "--help lists the keys; if a module of your own adds the section 'waves'"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"unknown config key {key!r}; {hint}")):
        check_key(key)


def test_multi_step_needs_steps() -> None:
    config = default_config()
    config.outer.objective = "multi_step"
    config.inner.num_steps = 0
    with pytest.raises(UsageError, match="multi_step"):
        resolve(config)


def test_differences_leave_out_what_does_not_change_the_parameters() -> None:
    old, new = default_config(), default_config()
    new.eval.num_steps = 3
    new.inner.num_steps = 7
    assert differences(new.to_dict(), old.to_dict()) == ["inner.num_steps: 1 -> 7"]
    new.inner.num_steps, new.eval.num_steps = 1, 10
    new.model.filters, new.lengths.temperature, new.data.rotation = 3, 2.0, "per_class"
    assert differences(new.to_dict() | {"evaluation": 2}, old.to_dict()) == [
        "evaluation: None -> 2"  # not free, although "eval" is
    ]


def test_a_key_that_an_older_config_lacks_has_its_default() -> None:
    new = json.loads(json.dumps(default_config().to_dict()))
    new["task"]["name"] = "images"
    old = json.loads(json.dumps(new))
    del old["data"]["invert"], old["data"]["mean"]
    assert differences(new, old) == []
    new["data"]["invert"], new["data"]["mean"] = "yes", [0.5]
    assert differences(new, old) == ["data.invert: auto -> yes", "data.mean: [] -> [0.5]"]


def changed(**changes: object) -> ConfigDict:
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return config


IMAGES = {"task__name": "images"}
CONV4 = {"model__name": "conv4", "model__normalization": "batch"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__name": "folder:x"},
            "task.name='sinusoid'; use a card of images, --config=configs/own_",
        ),
        (
            {"data__name": "glyphs"},
            "task.name='sinusoid'; use a card of images, --config=configs/glyphs.py",
        ),
        ({"data__name": "mini_imagenet:x"}, "--config=configs/mini_imagenet.py, or leave it out"),
        (
            {"data__rotation": "per_class"},
            "data.rotation='per_class' has no effect with task.name=",
        ),
        ({"task__ways": 7}, "task.ways=7 has no effect with task.name='sinusoid'; leave it out"),
        (
            {"task__oracle": True, **IMAGES},
            "task.oracle=True has no effect with task.name='images'",
        ),
        ({"model__filters": 3}, "has no effect with model.name='mlp'; leave it out, or use conv4"),
        (
            {"model__convolution": "lax"},
            "with model.name='mlp'; leave it out, or use conv4 or resnet12",
        ),
        ({"model__hidden": (3,), **IMAGES, **CONV4}, "model.hidden=(3,) has no effect with"),
        ({"model__max_pool": True, **IMAGES}, "model.max_pool=True has no effect"),
    ],
)
def test_keys_that_the_task_and_the_network_do_not_use_are_refused(
    changes: dict, message: str
) -> None:
    config = changed(**changes)
    with pytest.raises(UsageError, match=re.escape(message)):
        check_given(config, dict(flatten(config)))
    if "model." in message:  # a card may have set it, before the network was replaced
        resolve(config)
    else:
        with pytest.raises(UsageError, match=re.escape(message)):
            resolve(config)


def test_keys_of_other_methods_do_not_matter() -> None:
    config = changed(lengths__temperature=2.0, inner__momentum=0.5, outer__multi_step_anneal=7)
    unused = unused_keys(resolve(config), _fields())
    assert {"lengths.temperature", "inner.momentum", "outer.multi_step_anneal"} <= unused
    assert {"data.name", "data.rotation", "model.filters", "inner.proximal"} <= unused
    assert not unused & {"lengths.gate", "model.hidden", "task.shots", "inner.num_steps"}
    learned = changed(algorithm="adaptive_k", inner__optimizer="heavy_ball")
    assert not unused_keys(resolve(learned), ["lengths.temperature", "inner.momentum"])


def test_an_old_config_is_read_without_what_does_not_matter() -> None:
    """Version 0.2 began without a check: its cards of MLPs had keys of conv4."""
    config = changed(model__filters=3, data__name="glyphs", inner__momentum=0.5, task__shots=3)
    assert differences(without_unused(config).to_dict(), changed(task__shots=3).to_dict(), ()) == []
    resolve(without_unused(config))


def test_evaluation_and_steps_follow_other_keys_unless_they_are_set() -> None:
    spec = resolve(changed(task__shots=3, task__query_shots=7, algorithm="adaptive_k"))
    assert (spec.eval.shots, spec.eval.query_shots, spec.inner.num_steps) == (3, 7, 10)
    spec = resolve(changed(eval__shots=2, eval__query_shots=1, inner__num_steps=4))
    assert (spec.eval.shots, spec.eval.query_shots, spec.inner.num_steps) == (2, 1, 4)
    assert resolve(changed(algorithm="imaml", eval__num_steps=4)).inner.proximal == 25.0
    assert resolve(changed(**IMAGES)).data.name == "glyphs"


def test_a_run_keeps_what_keys_stood_for() -> None:
    config = completed(changed(algorithm="adaptive_k", task__shots=3))
    assert (config.inner.num_steps, config.eval.shots, config.data.name) == (10, 3, "")
    config.eval.num_steps = 20
    assert resolve(config).inner.num_steps == 10
    new, old = changed(algorithm="adaptive_k", task__shots=3), config.to_dict()
    assert differences(new.to_dict(), old) == []
    new.eval.num_steps = 20
    assert differences(new.to_dict(), old) == ["inner.num_steps: 10 -> 20"]


def test_reference_changes_only_what_it_names() -> None:
    config = default_config()
    assert differences(baseline_config(config, "oracle").to_dict(), config.to_dict()) == [
        "algorithm: maml -> pretrained",
        "task.oracle: False -> True",
    ]


@pytest.mark.parametrize("name", INNER_OPTIMIZERS)
def test_a_reference_may_run_whatever_the_inner_optimizer(name: str) -> None:
    config = default_config()
    config.inner.optimizer = name
    config.inner.learn_optimizer = "global" if INNER_OPTIMIZERS[name].hyper else "none"
    resolve(config)
    for reference in BASELINES:
        resolve(baseline_config(config, reference))


def test_a_row_alone_is_the_published_setting() -> None:
    get_config = runpy.run_path(str(CONFIGS / "omniglot.py"))["get_config"]
    assert get_config("20way_1shot").to_dict() == get_config("20way_1shot_paper").to_dict()
    get_config = runpy.run_path(str(CONFIGS / "cifar_fs.py"))["get_config"]
    differing = differences(
        get_config("5way_1shot_cpu").to_dict(), get_config("5way_1shot").to_dict()
    )
    assert differing == ["num_meta_steps: 60000 -> 18000", "outer.schedule: auto -> cosine"]


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_cards_are_valid_and_refuse_unknown_variants(card: pathlib.Path) -> None:
    get_config = runpy.run_path(str(card))["get_config"]
    resolve(get_config())
    with pytest.raises(UsageError, match="papr"):
        get_config("papr")


@dataclasses.dataclass(frozen=True)
class Plain:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Own:
    width: int = setting(3, "of the waves")


@pytest.mark.parametrize("settings", [Plain, Plain(), dict, "Own"])
@pytest.mark.parametrize("register", [register_model, register_task])
def test_settings_of_an_entry_are_made_by_setting(register: Callable, settings: object) -> None:
    with pytest.raises(ValueError, match=r"no dataclass|no help text; write width = setting"):
        register("waves", lambda *given: None, settings=settings)


@pytest.mark.parametrize("name", ["seed", "own", "inner", "baselines"])
def test_an_own_section_has_a_name_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS))
    register_model(name, lambda settings, outputs: None, settings=Own)
    with pytest.raises(UsageError, match=f"registered as '{name}', which is a key of every"):
        default_config()


def test_a_task_and_a_model_do_not_share_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (MODELS, TASKS):
        monkeypatch.setattr(registry, "_entries", dict(registry))
    register_model("waves", lambda settings, outputs: None, settings=Own)
    assert default_config().waves.width == 3
    register_task("waves", lambda spec: None, settings=Own)
    with pytest.raises(UsageError, match="registered as 'waves'"):
        default_config()
