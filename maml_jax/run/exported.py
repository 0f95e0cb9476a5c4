"""Exported models: one safetensors file with the meta-parameters and, as JSON, all about them."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from maml_jax.errors import UsageError, first_line
from maml_jax.params import path_of, with_paths
from maml_jax.run import files
from maml_jax.run.files import DamagedError, Record
from maml_jax.types import MetaParams

SUFFIX = ".safetensors"
PACKAGED = pathlib.Path(__file__).parent / "weights"  # models that are part of the package
_KEY = "maml_jax"  # of the file's metadata
_FORMAT = 1

Tensors = dict[str, np.ndarray]  # path -> values


def _as_numpy(leaf: Any) -> np.ndarray:
    """The format knows no bfloat16, which float32 holds exactly."""
    array = np.array(leaf, order="C")
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def write(path: pathlib.Path, meta_params: MetaParams, about: Record) -> None:
    """Writes a file whole.

    Raises:
      UsageError: the file cannot be written.
    """
    tensors = {name: _as_numpy(leaf) for name, leaf in with_paths(meta_params).items()}
    metadata = {_KEY: files.dumps({"format": _FORMAT, **about})}
    files.write(path, save(tensors, metadata))


def read(path: pathlib.Path) -> tuple[Tensors, Record]:
    """The meta-parameters by path, and what was saved beside them.

    Raises:
      UsageError: the file cannot be read, or is not one of `write`.
    """
    try:
        with safe_open(path, "numpy") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedError(
            f"{path} is no model that maml_jax has saved ({first_line(error)}); give a file that "
            "Model.save has written"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({files.reason_of(error)})") from error
    about = {} if text is None else files.loads(text, path)
    if about.pop("format", None) != _FORMAT:
        raise DamagedError(
            f"{path} is no model that this version of maml_jax has saved; save it again from its "
            "run, as mj.load(WORKDIR).save(FILE)"
        )
    return tensors, about


def fill(template: MetaParams, tensors: Tensors, path: pathlib.Path) -> MetaParams:
    """Meta-parameters like the template, with the values of a file.

    Raises:
      UsageError: the file lacks values, or has others.
    """
    wanted = with_paths(template)
    unlike = [
        f"{name} is {list(tensors[name].shape) if name in tensors else 'missing'}, the program has "
        f"{list(wanted[name].shape) if name in wanted else 'none'}"
        for name in sorted(wanted.keys() | tensors.keys())
        if name not in wanted or name not in tensors or tensors[name].shape != wanted[name].shape
    ]
    if unlike:
        raise DamagedError(
            f"{path} does not fit the program ({'; '.join(unlike[:3])}); use the version of "
            "maml_jax, and of your own modules, that saved it"
        )
    filled: MetaParams = jax.tree_util.tree_map_with_path(
        lambda key_path, leaf: jnp.asarray(tensors[path_of(key_path)], leaf.dtype), template
    )
    return filled


def packaged() -> dict[str, pathlib.Path]:
    """Name -> file, of the models that are part of the package."""
    return {file.stem: file for file in sorted(PACKAGED.glob(f"*{SUFFIX}"))}
