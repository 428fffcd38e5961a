"""The step over devices: how many there are changes nothing, and costs one message."""

import collections
import functools
import math
import re
import subprocess
import sys

import chex
import jax
import numpy as np
import on_devices
import programs
import pytest
import tiny

from ebmjax import models, optim, parallel, train_step

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"
    r"(?:-start)?\("
)
SCALARS = {
    "classifier": 0,
    "ng_ebm": 2,  # the mean energy of all devices, and its gradient
    "jem": 0,
}


@pytest.mark.parametrize("method", parallel.METHODS)
@pytest.mark.parametrize("name", SCALARS)
def test_a_step_sums_its_gradients_in_one_all_reduce(name, method):
    weights = dict(cross_entropy=1.0, p_x=1.0)
    case = on_devices.case(on_devices.WEIGHTS.get(name, weights))
    run = on_devices.program(case, method)
    text = run.lower(*on_devices.arguments(case)).compile().as_text()
    found = COLLECTIVE.findall(text)
    assert {kind for _, kind in found} == {"all-reduce"}
    is_scalar = [shape == "f32[]" for shape, _ in found]
    assert is_scalar.count(True) == SCALARS[name]
    assert is_scalar.count(False) == 1  # gradients and metrics together


def lowered(case):
    run = on_devices.program(case)
    return run, on_devices.arguments(case)


@pytest.mark.parametrize("name", ["classifier", "approximate_mass"])
def test_a_batch_in_parts_gives_the_same_step(name):
    case = on_devices.case(on_devices.WEIGHTS[name])
    run, arguments = lowered(case)
    whole, metrics = run(*arguments)
    run, arguments = lowered(case.replace(accumulation_steps=2))
    in_parts, metrics_in_parts = run(*arguments)
    chex.assert_trees_all_close(whole, in_parts, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(metrics, metrics_in_parts, rtol=1e-5, atol=1e-7)


def test_parts_have_chains_of_their_own_and_one_all_reduce():
    case = on_devices.case(dict(cross_entropy=1.0, p_x=1.0))
    case = case.replace(accumulation_steps=2)
    run, arguments = lowered(case)
    compiled = run.lower(*arguments).compile()
    assert len(COLLECTIVE.findall(compiled.as_text())) == 1
    state, metrics = compiled(*arguments)
    before, after = arguments[0].chains.samples, state.chains.samples
    moved = (np.asarray(before) != np.asarray(after)).any(axis=(2, 3, 4))
    # A device's parts of 2 images run 2 chains each, perhaps one of them twice.
    assert set(moved.sum(axis=1)) <= {2, 3, 4} and moved.sum() > 8
    assert np.isfinite(metrics["loss"])


EVERYTHING = dict(cross_entropy=1.0, p_x=0.1, energy_variance=0.1, approximate_mass=0.1)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_spread_state_takes_the_steps_of_a_whole_one(parts):
    case = on_devices.case(EVERYTHING).replace(
        accumulation_steps=parts,
        network=models.network(
            models.ConvNet(tiny.NUM_CLASSES, features=(32, 32)), per_example=True
        ),
        optimizer=optim.optimizer("adamw", lambda _: 1e-3, weight_decay=0.1),
        clip_norm=0.5,
        ema_decay=0.9,
    )
    whole, whole_metrics = three_steps(case, spread=False)
    spread, spread_metrics = three_steps(case, spread=True)
    chex.assert_trees_all_close(whole, spread, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(whole_metrics, spread_metrics, rtol=1e-4, atol=1e-6)
    for name in ("params", "opt_state", "ema"):
        one, part = (held(getattr(state, name)) for state in (whole, spread))
        assert part < 0.4 * one  # of the first of four devices


def three_steps(case, spread):
    state, *rest = on_devices.arguments(case)
    axes = train_step.fully_sharded(state) if spread else train_step.AXES
    state = parallel.place(jax.device_get(state), axes)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def counted(*args, axis_name):
        kwargs = dict(**case._asdict(), axes=axes, axis_name=axis_name)
        return train_step.train_step(*args, **kwargs)

    run = parallel.spmd(
        counted,
        in_axes=(axes, None, 0, None),
        out_axes=(axes, None),
        donate=(0,),
    )
    for _ in range(3):
        state, metrics = run(state, *rest)
    return state, metrics


def held(tree):
    """Bytes on the first device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def test_a_spread_gradient_is_summed_where_it_is_kept():
    case = on_devices.case(dict(cross_entropy=1.0))
    case = case.replace(
        network=models.network(models.MLP(4, (1024,)), per_example=True)
    )
    state, *rest = on_devices.arguments(case)
    axes = train_step.fully_sharded(state)
    run = parallel.spmd(
        functools.partial(train_step.train_step, **case._asdict(), axes=axes),
        in_axes=(axes, None, 0, None),
        out_axes=(axes, None),
    )
    text = run.lower(parallel.place(jax.device_get(state), axes), *rest).compile()
    found = COLLECTIVE.findall(text.as_text())
    kinds = collections.Counter(kind for _, kind in found)
    kernels = sum(axis is not None for axis in jax.tree.leaves(axes.params))
    assert kernels == 2 and kinds["reduce-scatter"] in (1, kernels), kinds
    assert kinds["all-gather"] in (1, kernels), kinds
    # Small parameters, metrics and the gradient's norm together.
    assert kinds["all-reduce"] == 1
    summed = "".join(shape for shape, kind in found if kind == "all-reduce")
    sizes = re.findall(r"f32\[([\d,]*)\]", summed)
    assert all(math.prod(map(int, filter(None, x.split(",")))) <= 1024 for x in sizes)


def test_rematerialisation_changes_the_memory_and_nothing_else():
    def gradient(remat):
        module = models.WideResNet(10, 1, tiny.NUM_CLASSES, remat=remat)
        network = models.network(module)
        x = jax.random.uniform(jax.random.key(0), (8, 16, 16, 1), minval=-1.0)
        params, stats = network.init(jax.random.key(1), x)

        def loss(params):
            return network.train(params, stats, x, jax.random.key(2))[0].var()

        pullback = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        kept = sum(x.size for x in jax.tree.leaves(pullback))
        return jax.jit(jax.grad(loss))(params), kept

    (kept, num_kept), (again, num_again) = gradient(False), gradient(True)
    chex.assert_trees_all_close(kept, again, rtol=1e-4, atol=1e-6)
    assert num_again < 0.6 * num_kept


@pytest.mark.slow
def test_one_two_four_and_eight_devices_take_the_same_steps(tmp_path):
    counts = 1, 2, 8
    started = [
        subprocess.Popen(
            [sys.executable, "tests/on_devices.py", str(n), str(tmp_path / f"{n}.npz")],
            cwd=programs.ROOT,
            env=programs.environment() | {"PYTHONPATH": str(programs.ROOT)},
        )
        for n in counts
    ]
    try:
        assert [program.wait(timeout=120) for program in started] == [0, 0, 0]
    finally:
        for program in started:
            program.kill()
            program.wait()
    four = on_devices.all_objectives()
    worst = {}
    for n in counts:
        other = np.load(tmp_path / f"{n}.npz")
        assert set(other) == set(four)
        for name, x in four.items():
            # A gradient is the difference of two steps here: good to 1e-7 / RATE.
            np.testing.assert_allclose(other[name], x, rtol=1e-5, atol=3e-6)
            worst[n] = max(worst.get(n, 0), np.abs(other[name] - x).max(initial=0))
    print("largest difference from four devices:", worst)
