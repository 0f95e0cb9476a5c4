"""What long lengths are worth: runs of a study with every length above a cap cut to it.

python -m experiments.studies.length_caps --workdir=runs/acceleration_sinusoid --arms=gd,ogm

--tensors=head also cuts the lengths of these tensors alone, both as they are and with step sizes
enlarged so that as many steps' worth of movement is left. This shows whether larger steps could
replace some of them.

The measure is the median loss over validation tasks, or the accuracy. Nothing is trained again. The
result is kept in experiments/results/length_caps_TASK.json.
"""

import pathlib
from collections.abc import Iterator

import jax
from absl import flags
from tqdm import tqdm

from experiments import cli
from experiments.publish import results
from experiments.studies import cli as study_cli
from experiments.studies import task_flag
from experiments.studies.cli import ARMS, WORKDIR
from experiments.studies.task_flag import TASK
from maml_jax.errors import UsageError
from maml_jax.params import path_of
from maml_jax.run import provenance
from maml_jax.run.build import Experiment
from maml_jax.run.workdir import load_run
from maml_jax.types import Array, MetaParams, PyTree

flags.adopt_module_key_flags(task_flag)
_CAPS = flags.DEFINE_list("caps", ["15", "10", "5"], "lengths to cut longer ones to")
_TENSORS = flags.DEFINE_string(
    "tensors", "", "first part of the paths of tensors that are also cut alone"
)


def with_larger_steps(
    experiment: Experiment, meta_params: MetaParams, factor: float, under: str
) -> MetaParams:
    """Meta-parameters with step sizes `factor` times as large in tensors whose path starts so.

    Raises:
      UsageError: the run's step sizes are shared by tensors or learned as logarithms.
    """
    step_sizes, kind = meta_params.step_sizes, experiment.spec.inner.step_sizes
    if kind not in ("fixed", "parameter", "tensor_step"):
        raise UsageError(
            f"--tensors={under} cannot enlarge inner.step_sizes={kind!r}; leave it out"
        )
    if kind == "fixed":
        step_sizes = jax.tree.map(lambda _: step_sizes, experiment.learned.adapted)

    def enlarge(path: PyTree, step_size: Array) -> Array:
        return step_size * (factor if path_of(path).startswith(under) else 1)

    return meta_params._replace(step_sizes=jax.tree_util.tree_map_with_path(enlarge, step_sizes))


def variants(
    experiment: Experiment, meta_params: MetaParams, caps: list[int], tensors: str
) -> Iterator[tuple[str, MetaParams]]:
    """Label and meta-parameters: as trained, then with lengths cut to every cap."""
    most, cut = experiment.learned.most, experiment.learned.cut
    yield f"up to {most}", meta_params
    for cap in (cap for cap in caps if cap < most):
        yield f"cut to {cap}", cut(meta_params, cap)
        if tensors:
            alone = cut(meta_params, cap, tensors)
            yield f"{tensors} cut to {cap}", alone
            factor = most / max(cap, 1)
            larger = with_larger_steps(experiment, alone, factor, tensors)
            yield f"{tensors} cut to {cap}, steps {factor:.2f} times as large", larger


def measure(
    workdir: pathlib.Path, arm: str, caps: list[int], tensors: str = ""
) -> dict[str, list[float]]:
    """Label of a variant -> median loss, or accuracy, of every seed's run.

    Raises:
      UsageError: the folder has no run of the arm, or the arm learns no such lengths.
    """
    values: dict[str, list[float]] = {}
    for run in tqdm(study_cli.trained(workdir, arm), desc=arm):
        experiment, state = load_run(run)
        for label, changed in variants(experiment, state.meta_params, caps, tensors):
            estimates = experiment.evaluate(changed, "validation").estimates
            accuracy = estimates.get("accuracy")
            value = estimates["loss"].median if accuracy is None else accuracy.mean
            values.setdefault(label, []).append(float(value[-1]))
    return values


def main(_: list[str]) -> None:
    """Evaluates and keeps."""
    workdir, caps = pathlib.Path(WORKDIR.value), cli.whole_numbers(_CAPS)
    if not ARMS.value:
        raise UsageError("no arms are named; use --arms=gd,ogm")
    arms = {arm: measure(workdir, arm, caps, _TENSORS.value) for arm in ARMS.value}
    record = {**provenance.describe(), "arms": arms}
    print(results.write(f"length_caps_{TASK.value}", record))


if __name__ == "__main__":
    cli.run(main)
