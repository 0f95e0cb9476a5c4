"""Settings that must come before jax is imported: eight forced host devices, programs shared."""

import gc
import os
import pathlib

COMPILE_FAST = (  # tests compile much and compute little
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        COMPILE_FAST,
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one process has compiled others load: workers, binaries, the next call of pytest.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "programs"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
gc.set_threshold(200_000, 20, 20)  # traces are many small objects: a twentieth of the time
