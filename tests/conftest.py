import jax

jax.config.update("jax_num_cpu_devices", 4)  # before anything touches a device
jax.config.update("jax_numpy_rank_promotion", "raise")  # [B] - [B, 1] is a bug
