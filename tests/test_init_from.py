"""Training that starts from a trained model: `config.model.init_from`."""

import shutil

import chex
import pytest
import test_train

from ebmjax import export, plan, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    return train.fit(test_train.small(num_steps=4), workdir)


def tuned(source, **changes):
    """One step, with a rate of next to nothing, from `source`."""
    changes = {"num_steps": 1, "optimizer__learning_rate": 1e-12} | changes
    c = test_train.small(**changes)
    c.model.init_from = str(source)
    return c


def assert_same_parameters(found, expected):
    chex.assert_trees_all_close(
        found.model.variables, expected.model.variables, atol=1e-6
    )


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_run_starts_from_the_parameters_of_another(tmp_path, trained, fsdp):
    c = tuned(trained.workdir, optimizer__ema_decay=0.5, model__features=(16,))
    c.parallel.fsdp = fsdp
    c.seed = 7  # without it, other parameters
    if fsdp:  # shared are layers that are large enough
        big = train.fit(test_train.small(model__features=(1024,)), tmp_path / "big")
        c.model.update(features=(1024,), init_from=str(tmp_path / "big"))
    assert_same_parameters(train.fit(c, tmp_path / "tuned"), big if fsdp else trained)
    state = test_train.state_of(tmp_path / "tuned")[1]
    chex.assert_trees_all_close(state["ema"], state["params"], atol=1e-6)


def test_a_run_starts_from_an_exported_folder_and_resumes_without_it(tmp_path, trained):
    folder = tmp_path / "exported"
    export.to_folder(trained, folder)
    c = tuned(folder, num_steps=2)
    train.fit(c, tmp_path / "tuned")
    shutil.rmtree(folder)
    c.num_steps = 3
    assert_same_parameters(train.fit(c, tmp_path / "tuned"), trained)


def test_running_moments_come_with_the_parameters(tmp_path):
    c = test_train.small(num_steps=2, model__name="wide_resnet", model__depth=10)
    c.model.update(width=1, norm="batch")
    first = train.fit(c, tmp_path / "first")
    c.model.init_from = str(tmp_path / "first")
    state = plan.start_state(plan.make_plan(c))
    (params, model_state) = first.model.variables
    chex.assert_trees_all_equal(state.params, params)
    chex.assert_trees_all_equal(state.model_state, model_state)


@pytest.mark.parametrize(
    "source, features, error, message",
    [
        ("nowhere", (16,), FileNotFoundError, "nowhere"),
        (None, (8,), ValueError, "was trained with another network"),
    ],
)
def test_a_model_that_cannot_be_started_from_is_refused(
    tmp_path, trained, source, features, error, message
):
    c = tuned(source or trained.workdir, model__features=features)
    with pytest.raises(error, match=message):
        train.fit(c, tmp_path)
