import pathlib

import jax

jax.config.update("jax_num_cpu_devices", 4)  # before anything touches a device
jax.config.update("jax_numpy_rank_promotion", "raise")  # [B] - [B, 1] is a bug

# Runs are started again and again here, each time with the same programs.
cache = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
