"""Installation of maml_jax. Tool settings live in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(r'__version__ = "(.+)"', (_HERE / "maml_jax/__init__.py").read_text())
assert _VERSION is not None

setup(
    name="maml_jax",
    version=_VERSION.group(1),
    description="Gradient-based meta-learning in JAX",
    long_description=(_HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    url="https://github.com/OWNER/maml_jax",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["maml_jax", "maml_jax.*"]),
    package_data={"maml_jax": ["py.typed", "run/weights/*.safetensors"]},
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.90",
        "flax>=0.12",
        "grain>=0.2.10",
        "jax>=0.10,<0.12",
        "jaxlib>=0.10,<0.12",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.30",
        "pillow>=10",
        "safetensors>=0.4",
        "scipy>=1.13",  # experiments.studies
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "tensorflow": ["tensorflow"],  # to prepare a TFDS download; reading needs none
        "parquet": ["pyarrow>=15"],  # mini_imagenet and tiered_imagenet of the Hugging Face Hub
        "networks": ["dm-haiku>=0.0.14", "equinox>=0.11"],  # tests of docs/own_model.md use them
        "cluster": ["submitit>=1.5"],  # experiments.sweep --executor
        "rl": [  # the environments half_cheetah_*; navigation needs none of it
            "gymnasium>=1.0",
            "mujoco>=3.2",
            "mujoco-mjx>=3.2",
        ],
        "test": [
            "ipykernel>=6",
            "mypy>=1.15",
            "nbclient>=0.10",
            "pyarrow>=15",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.12",
        ],
        "docs": [
            "furo>=2024.8",
            "ipykernel>=6",
            "myst-nb>=1.2",
            "sphinx>=9,<10",
            "sphinx-copybutton>=0.5",
            "sphinx-design>=0.6",
        ],
    },
)
