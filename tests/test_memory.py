"""The plans of experiments.memory, against what is known of WRN-28-10."""

import jax
import pytest

from ebmjax import parallel
from experiments import memory

PARAMETERS = 36_471_338
NG_EBM = {"objective.energy_variance": 1.0, "objective.approximate_mass": 1.0}
# Multiplications of one image's forward pass: a 3x3 convolution of 3 -> 16 channels at
# 32x32; groups of four blocks of 160, 320 and 640 channels, whose strides are on the
# second convolution; the shortcuts of their first blocks.
FORWARD = 32 * 32 * 9 * 3 * 16 + sum(
    9 * (before * width * side**2 + width**2 * (side // stride) ** 2)  # first block
    + before * width * (side // stride) ** 2  # its shortcut
    + 3 * 9 * 2 * width**2 * (side // stride) ** 2  # the other blocks
    for before, width, side, stride in [
        (16, 160, 32, 1),
        (160, 320, 32, 2),
        (320, 640, 16, 2),
    ]
)


def test_the_state_is_the_parameters_and_adams_two_moments():
    state, *_ = memory.arguments(memory.Plan("", {}))
    assert memory.num_bytes(state) == 3 * 4 * PARAMETERS + 4 * 4  # and four counters


def test_a_device_of_eight_has_an_eighth_of_a_spread_state(monkeypatch):
    monkeypatch.setattr(parallel, "mesh", lambda: jax.sharding.AbstractMesh((8,), "d"))
    plan = memory.Plan("", memory.FSDP)
    state, *_ = memory.arguments(plan)
    eighth = memory.num_bytes(state) / memory.DEVICES
    spread = memory.num_bytes(state, memory.layout(plan, state))
    assert eighth < spread < 1.01 * eighth  # biases lie whole on all of them


def test_a_classifiers_step_takes_three_forward_passes():
    cells = memory.row(memory.Plan("classifier", {}))
    # All but the first convolution have a gradient for their input too.
    first = 32 * 32 * 9 * 3 * 16
    expected = 2 * memory.BATCH * (3 * FORWARD - first) / 1e12
    assert float(cells[6]) == pytest.approx(expected, abs=0.5)


def test_an_ng_ebm_step_takes_twice_a_classifiers():
    cells = memory.row(memory.Plan("NG-EBM", NG_EBM))
    # Forward, back to the images and forth again (the gradient of that), back once
    # more, each kernel's gradient twice; the last way back ends before the images.
    first = 32 * 32 * 9 * 3 * 16
    expected = 2 * memory.BATCH * (6 * FORWARD - first) / 1e12
    assert float(cells[6]) == pytest.approx(expected, abs=0.5)


def test_rematerialisation_keeps_what_enters_blocks_for_a_gradient_of_a_gradient_too():
    once = memory.kept(memory.Plan("", memory.REMAT))
    twice = memory.kept(memory.Plan("", memory.REMAT | NG_EBM))
    assert twice < 2.2 * once  # images on the way forth, gradients on the way back


def test_parts_and_rematerialisation_keep_less():
    whole = memory.kept(memory.Plan("", {}))
    parts = memory.kept(memory.Plan("", {"optimizer.accumulation_steps": 4}))
    remat = memory.kept(memory.Plan("", memory.REMAT))
    assert parts == pytest.approx(whole / 4, rel=0.05)
    assert remat < whole / 2
