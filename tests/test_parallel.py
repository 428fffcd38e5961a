"""The step over devices: how many there are changes nothing, and costs one message."""

import re
import subprocess
import sys

import numpy as np
import on_devices
import programs
import pytest

from ebmjax import parallel

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
    settings = on_devices.settings(on_devices.WEIGHTS.get(name, weights))
    run = on_devices.program(settings, method)
    text = run.lower(*on_devices.arguments(settings)).compile().as_text()
    found = COLLECTIVE.findall(text)
    assert {kind for _, kind in found} == {"all-reduce"}
    is_scalar = [shape == "f32[]" for shape, _ in found]
    assert is_scalar.count(True) == SCALARS[name]
    assert is_scalar.count(False) == 1  # gradients and metrics together


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
