"""Memory of compiled programs."""

import jax


def temporary_megabytes(compiled: jax.stages.Compiled) -> float:
    """Temporary memory of a program, beside its inputs and outputs.

    Raises:
      RuntimeError: the backend does not say.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError(f"{jax.default_backend()} has no memory analysis of its programs")
    return float(analysis.temp_size_in_bytes) / 1e6
