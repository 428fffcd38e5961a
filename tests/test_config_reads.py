"""Every key of the config is read by a run, its evaluation, or the command line."""

import sys
import types

import ml_collections
import pytest
from absl import flags

from ebmjax import cli, main, objectives, processes, recipe, runs, train
from ebmjax.config_file import load_config
from ebmjax.eval import evaluate as evaluation
from ebmjax.keys import KEYS, MODELS

# These pass keys on or compare them, which is no use of them.
NOT_READERS = {"ebmjax.config", "ebmjax.config_file", "ebmjax.presets"}


def groups():
    """{names of a group's keys: its prefix}, by which a ConfigDict is recognised."""
    names = {}
    for key in KEYS:
        path = key.split(".")
        for depth in range(len(path)):
            prefix = "".join(f"{part}." for part in path[:depth])
            names.setdefault(prefix, set()).add(path[depth])
    return {frozenset(keys): prefix for prefix, keys in names.items()}


@pytest.fixture
def read(monkeypatch):
    """The keys that a module of ebmjax has read, from now on."""
    prefixes, found = groups(), set()

    def recorded(original):
        def method(self, name):
            caller = sys._getframe(1).f_globals["__name__"]
            if caller.startswith("ebmjax.") and caller not in NOT_READERS:
                prefix = prefixes.get(frozenset(self.keys()))
                found.add(f"{prefix}{name}")
            return original(self, name)

        return method

    for method in ("__getattr__", "__getitem__"):
        original = getattr(ml_collections.ConfigDict, method)
        monkeypatch.setattr(ml_collections.ConfigDict, method, recorded(original))
    return found


def tiny():
    c = load_config("jem_digits:smoke")
    c.model.update(name="mlp", features=(8,))
    c.optimizer.ema_decay = 0.5
    c.objective.outliers, c.data.outliers = 0.1, "digits@test"
    c.eval.ood.update(num_images=20, refine_steps=1)
    c.eval.attacks.update(num_images=4, num_steps=2, distal_steps=2, distance_rounds=2)
    c.eval.attacks.update(refine_images=2, refine_copies=1, eps_linf=(8.0,))
    c.eval.attacks.update(eps_l2=(1.0,), refine_gradients=("true",))
    c.eval.energies.update(num_images=4, num_steps=2)
    c.eval.counterfactuals.num_steps = 2
    c.eval.samples.update(num_chains=8, num_steps=1, num_reference=8)
    return c


@pytest.mark.slow
def test_every_key_is_read(read, tmp_path, monkeypatch):
    c = tiny()
    train.fit(c, str(tmp_path / "run"))
    run = runs.load(str(tmp_path / "run"))
    results = evaluation.evaluate(run, tasks=tuple(evaluation.TASKS))
    assert not evaluation.failures(results)
    c.recovery.update(max_loss=1e-6, max_recoveries=0)
    with pytest.raises(RuntimeError, match="diverged"):
        train.fit(c, str(tmp_path / "diverged"))
    c.optimizer.sam_rho = 0.1
    recipe.from_config(c, 10)
    for name in MODELS:
        c.model.name = name
        recipe.network(c, 10)
    monkeypatch.setattr(processes, "start", lambda **_: None)
    monkeypatch.setattr(cli, "set_up_jax", lambda: None)
    run = types.SimpleNamespace(tasks=None)
    monkeypatch.setattr(train, "fit", lambda *_, **__: run)
    flags.FLAGS(["ebmjax", "--config=jem_digits"])
    main.main(["ebmjax", "--config.eval.tasks="])
    read |= {f"objective.{name}" for name in objectives.TERMS}
    assert set(KEYS) - read == set()
