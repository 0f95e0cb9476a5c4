"""Trained models from where they are: workdirs, files, and the package itself."""

import dataclasses
import os
import pathlib

import jax

from maml_jax.errors import UsageError
from maml_jax.run import exported, files
from maml_jax.run.build import Experiment, build
from maml_jax.run.files import Record
from maml_jax.run.model import Model
from maml_jax.run.problems import Inputs
from maml_jax.run.workdir import config_of, read_config, read_inputs, read_trained
from maml_jax.types import MetaParams


def load(source: str | os.PathLike[str], *, last: bool = False) -> Model:
    """Loads a trained model, which needs none of the data of its run.

    Args:
      source: the workdir of a run, a file of `Model.save`, or the name of a pretrained model in
        `maml_jax.run.pretrained()`.
      last: of a workdir, the parameters of the last meta-step even if the run has kept better
        ones by validation.

    Raises:
      UsageError: there is no such model, or it cannot be read.

    Example:
      >>> import maml_jax as mj
      >>> model = mj.load("glyphs-5way-1shot")
      >>> model.inputs.shape
      (28, 28, 1)
    """
    path, packaged = files.local_folder(source), exported.packaged()
    if path.is_file():
        return _of_file(path)
    if str(source) in packaged and not (path / "config.json").exists():
        return _of_file(packaged[str(source)])
    if path.is_dir():
        return _of_run(path, last)
    raise UsageError(
        f"{source} is no workdir, no file and no pretrained model; train one with "
        f"experiments.train, or use one of {', '.join(packaged)}"
    )


def _of_file(path: pathlib.Path) -> Model:
    tensors, about = exported.read(path)
    try:
        config = config_of(about["config"], str(path))
        inputs, record = Inputs.of(about["inputs"]), about["record"]
    except (KeyError, TypeError) as error:
        raise files.DamagedError(f"{path} lacks a field of a model ({error})") from error
    model = Model(config, MetaParams(()), inputs, record)
    template = jax.eval_shape(model.experiment.init).meta_params
    return dataclasses.replace(model, meta_params=exported.fill(template, tensors, path))


def _of_run(workdir: pathlib.Path, last: bool) -> Model:
    config, inputs = read_config(workdir), read_inputs(workdir)
    experiment = build(config, training=False, inputs=inputs)
    meta_params, record = read_trained(experiment, workdir, last=last)
    if inputs is None:
        inputs = experiment.problem.inputs or _form_of(experiment)
    return Model(config, meta_params, inputs, record)


def _form_of(experiment: Experiment) -> Inputs:
    """The form of the inputs of a task that does not say it."""
    sample = experiment.problem.sampler(1, 1, "test")
    inputs = jax.eval_shape(lambda key: sample(key)[0], jax.random.key(0))[0]
    if not isinstance(inputs, jax.ShapeDtypeStruct):
        raise UsageError(
            f"the inputs of task.name={experiment.spec.task.name!r} are no array; adapt with its "
            "inner loop: experiment, state = maml_jax.run.load_run(WORKDIR)"
        )
    return Inputs(inputs.shape[1:], str(inputs.dtype))


def pretrained() -> dict[str, Record]:
    """Name -> record, of the models that are part of the package.

    A record has the evaluation, the config and the command of the run.
    """
    return {name: exported.read(path)[1] for name, path in exported.packaged().items()}
