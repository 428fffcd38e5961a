"""JEM-k: classification after k SGLD steps that move the input towards the model.

Grathwohl et al. (2020), on robustness. A refined classifier is random, hence a
function of a key too: an attack on it has to take the expectation over that key,
and should let its gradient pass through the chain. Where a gradient in the chain
is NaN, so are the refined image and its logits; see `attacks.is_correct`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ebmjax import energy, sgld

LogitsFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B, K]


def refine(
    key: jax.Array,
    logits_fn: LogitsFn,
    x: jax.Array,
    *,
    num_steps: int,
    sampler: sgld.SamplerFactory = sgld.JEM,
    gradient: str = "true",
) -> jax.Array:
    """x after `num_steps` steps of `sampler` on E(x).  [B, ...] -> [B, ...].

    `gradient` says what d refine/dx is:

    * "true": the derivative of the chain, Π_k (I - step_size ∇²E(x_k)). States
      are kept and each step is computed a second time on the way back, so the
      memory is that of one step and `num_steps` images.
    * "straight_through": the identity, as in the official attack script, which
      moves the image outside of automatic differentiation.

    An attack should try both and count the worse: straight-through does not see
    the chain and may overstate the robustness; and where the energy was never
    trained, as in a plain classifier, chains are rough, and the true gradient leads
    nowhere.
    """
    if gradient not in ("true", "straight_through"):
        raise ValueError(f"gradient is {gradient!r}, not 'true' or 'straight_through'")

    def energy_fn(x):
        return energy.from_logits(logits_fn(x))

    chain = sampler(energy_fn)
    # A scan needs no barrier against the compiler undoing the rematerialisation.
    step = jax.checkpoint(chain.step, prevent_cse=False)
    state, _ = sgld.run(key, chain._replace(step=step), chain.init(x), num_steps)
    if gradient == "true":
        return state.position
    zero = x - jax.lax.stop_gradient(x)  # whose derivative is one
    return jax.lax.stop_gradient(state.position) + zero


def refined_classifier(
    logits_fn: LogitsFn,
    *,
    num_steps: int,
    num_copies: int = 5,
    input_noise_std: float = 0.03,
    sampler: sgld.SamplerFactory = sgld.JEM,
    gradient: str = "true",
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(key, x [B, ...]) -> mean logits [B, K] of noised and refined copies of x.

    Logits are averaged, not probabilities, as in the official code; its numbers
    are 5 copies and a noise of 0.03 under L-infinity attacks, 0 under L2 ones.
    """

    def refined_logits(key, x):
        k_noise, k_chain = jax.random.split(key)
        copies = jnp.repeat(x, num_copies, axis=0)
        std = jnp.asarray(input_noise_std, x.dtype)
        copies += std * jax.random.normal(k_noise, copies.shape, copies.dtype)
        refined = refine(
            k_chain,
            logits_fn,
            copies,
            num_steps=num_steps,
            sampler=sampler,
            gradient=gradient,
        )
        return logits_fn(refined).reshape(len(x), num_copies, -1).mean(axis=1)

    return refined_logits
