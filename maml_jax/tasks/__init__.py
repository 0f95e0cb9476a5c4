"""Where episodes come from: each family of tasks draws one `Episode` from one PRNG key.

`sinusoid` and `quadratic` are families of functions, and `episodes` samples few-shot episodes from
a pool of images on the device. `maml_jax.tasks.host` does the same from a pool on the host, and
`maml_jax.tasks.images` prepares pools; both are imported on demand.
"""

from maml_jax.tasks import episodes, quadratic, sinusoid
from maml_jax.tasks.episodes import Pool, make_sampler

__all__ = ["Pool", "episodes", "make_sampler", "quadratic", "sinusoid"]
