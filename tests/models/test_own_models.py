"""docs/own_model.md: networks of other libraries, as registered models; what they must not need."""

import dataclasses
import pathlib
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maml_jax import testing
from maml_jax.errors import UsageError
from maml_jax.models import MODELS, FunctionalModel, classification_loss, register_model
from maml_jax.params import with_paths
from maml_jax.run.build import build
from maml_jax.run.config import check_given
from maml_jax.run.loop import train
from maml_jax.run.workdir import load_run, open_workdir
from maml_jax.settings import setting
from maml_jax.types import Examples
from tests.run.runs import tiny_config

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "own_model.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LIBRARIES = {"nnx_net": "flax", "equinox_net": "equinox", "haiku_net": "haiku"}
NETWORKS = ["linen_net", "normalized_net", *LIBRARIES]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what a test registers."""
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS))


def run_blocks(name: str) -> None:
    """Runs the code of the documentation that registers a network, with its imports."""
    pytest.importorskip(LIBRARIES.get(name, "flax"))
    scope: dict[str, object] = {}
    of_linen = ["linen_net", "conv_net", "normalized_net"]
    needed = of_linen[: of_linen.index(name) + 1] if name in of_linen else [name]
    for block in BLOCKS:
        if any(f'register_model("{of}"' in block for of in needed):
            exec(block, scope)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_documentation_adapt(name: str) -> None:
    run_blocks(name)
    testing.check_model(name)
    experiment = build(tiny_config(model__name=name, algorithm="adaptive_k", inner__num_steps=2))
    meta_params = jax.eval_shape(lambda: experiment.init().meta_params)
    assert "head" in {path.split("/")[0] for path in with_paths(meta_params.init)}
    episode, key = experiment.problem.sampler(3, 2, "train"), jax.random.key(0)
    adaptation = jax.eval_shape(experiment.inner_loop(2), meta_params, episode(key).support, key)
    assert jax.tree.structure(adaptation.params) == jax.tree.structure(meta_params.init)


def test_the_network_for_images_says_that_it_needs_them() -> None:
    run_blocks("conv_net")
    testing.check_model("conv_net")
    register_model("unsaid", MODELS.find("conv_net").build)
    with pytest.raises(AssertionError, match=r"inputs \[6, 3\] .* with images_only=True"):
        testing.check_model("unsaid")


def test_a_pytree_of_another_library_is_trained_and_restored(tmp_path: pathlib.Path) -> None:
    run_blocks("equinox_net")
    experiment = build(tiny_config(model__name="equinox_net", num_meta_steps=10))
    open_workdir(experiment.config, tmp_path)
    state = train(experiment, tmp_path)
    trained, first = state.meta_params.init, experiment.init().meta_params.init
    restored = load_run(tmp_path)[1].meta_params.init
    for leaves in zip(*map(jax.tree.leaves, (trained, first, restored)), strict=True):
        assert np.any(leaves[0] != leaves[1])
        np.testing.assert_array_equal(leaves[0], leaves[2])


class Stateful(nn.Module):
    dropout: bool = False

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        layer = nn.Dropout(0.5, deterministic=False) if self.dropout else nn.BatchNorm(False)
        return nn.Dense(1, name="head")(layer(inputs))


def test_running_statistics_and_random_numbers_are_explained() -> None:
    register_model("stateful", lambda settings, outputs: Stateful())
    register_model("dropping", lambda settings, outputs: Stateful(dropout=True))
    message = r"model\.name='stateful': the network keeps batch_stats .* nn\.LayerNorm instead of"
    with pytest.raises(UsageError, match=message):
        build(tiny_config(model__name="stateful")).init()
    dropping = build(tiny_config(model__name="dropping"))
    with pytest.raises(ValueError, match=r"draws random numbers .* leave out nn\.Dropout"):
        dropping.train(dropping.init(), 1)
    loss, data = classification_loss(Stateful()), Examples(jnp.ones((2, 3)), jnp.zeros(2, int))
    variables = Stateful().init(jax.random.key(0), data.inputs)
    with pytest.raises(ValueError, match=r"needs variables beside its parameters .*batch_stats"):
        loss(variables["params"], data, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Width:
    width: int = setting(3, "units")


def test_normalization_of_a_network_with_a_section_of_its_own() -> None:
    register_model("narrow", lambda of, outputs: nn.Dense(outputs), settings=Width)
    message = r"'support' hands the network num_reference, which 'narrow' does not take; add it"
    with pytest.raises(UsageError, match=message):
        testing.check_model("narrow", **{"model.normalization": "support"})
    config = tiny_config(model__name="narrow", model__filters=99)
    with pytest.raises(
        UsageError, match=r"model\.filters=99 has no effect with model\.name='narrow'"
    ):
        check_given(config, ["model.filters"])
    config.model.name = "nothing"
    with pytest.raises(UsageError, match="resnet12, narrow; one of your own needs --import=MODULE"):
        build(config)


def test_options_reach_a_function() -> None:
    model = FunctionalModel(
        lambda key, inputs: inputs, lambda params, inputs, num_reference=0: params[num_reference:]
    )
    inputs = jnp.arange(3.0)[:, None]
    variables = model.init(jax.random.key(0), inputs)
    assert model.apply(variables, inputs, num_reference=1).tolist() == [[1.0], [2.0]]
