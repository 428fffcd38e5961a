"""Each file of configs/official does what the command line that it quotes asks for, or
what its program sets."""

import argparse
import ast
import pathlib
import shlex

import pytest

from ebmjax import config
from ebmjax.config_file import load_config

FILES = sorted((pathlib.Path(__file__).parent.parent / "configs/official").glob("*.py"))
WITH_COMMAND = [path for path in FILES if "train_wrn_ebm.py" in path.read_text()]
STEPS_PER_EPOCH = 45_000 // 64
assert WITH_COMMAND

# What the programs of JEM++ and SADA-JEM set.
COMMON = {
    "data.name": "cifar10",
    "model.norm": "batch",
    "sgld.clip_grad": 1.0,
    "sgld.clip_x": 1.0,
    "sgld.step_size": 1.0,
    "sgld.buffer_size": 10_000,
    "sgld.reinit_prob": 0.05,
    "sgld.train_mode": True,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.decay_factor": 0.2,
    "eval.samples.num_chains": 10_000,
    "eval.samples.buffer_share": 0.9,
}
CLEAN = COMMON | {
    "batch_size": 128,
    "num_steps": 78_000,  # 200 epochs of 390
    "data.generative_augment": False,
    "data.generative_batch_size": 64,
    "sgld.num_steps": 5,
    "optimizer.weight_decay": 5e-4,
}
JEM_PP = COMMON | {
    "batch_size": 64,
    "num_steps": 105_450,  # 150 epochs of 703
    "data.noise_std": 0.03,
    "data.num_valid": 5_000,
    "sgld.num_steps": 10,
    "sgld.init": "class_gaussian",
    "optimizer.weight_decay": 4e-4,
    "optimizer.sam_rho": 0.0,
}
SADA_JEM = CLEAN | {
    "sgld.init": "class_gaussian",
    "sgld.noise_std": 0.0,
    "objective.mean_energy_l2": 0.0,
    "optimizer.sam_rho": 2.0,
    "optimizer.sam_adaptive": True,
}
SGD = {
    "batch_size": 128,
    "data.num_valid": 0,
    "data.noise_std": 0.0,
    "model.norm": "batch",
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.warmup_steps": 0,
}
FAMILY = {
    "jem_pp_cifar10": JEM_PP,
    "jem_pp_cifar100": JEM_PP | {"data.name": "cifar100"},
    "m_jem_cifar10": CLEAN
    | {
        "sgld.init": "gaussian",
        "sgld.noise_std": 0.001,
        "objective.mean_energy_l2": 0.5,
        "optimizer.sam_rho": 0.0,
    },
    "sada_jem_cifar10": SADA_JEM,
    "sada_jem_cifar100": SADA_JEM | {"data.name": "cifar100"},
    "hdge_cifar10": {
        "batch_size": 64,
        "num_steps": 140_600,  # 200 epochs of 703
        "data.num_valid": 5_000,
        "data.noise_std": 0.03,
        "model.depth": 28,
        "model.width": 10,
        "model.norm": "",
        "objective.cross_entropy": 1.0,
        "objective.contrast": 1.0,
        "objective.p_x": 0.0,
        "hdge.temperature": 0.1,
        "hdge.queue_size": 65_536,
        "optimizer.name": "adam",
        "optimizer.learning_rate": 1e-4,
        "optimizer.boundaries": (160 * 703, 180 * 703),
        "optimizer.decay_factor": 0.3,
        "recovery.max_loss": 1e8,
        "eval.num_bins": 20,
    },
    "adversarial_cifar10": SGD
    | {
        "num_steps": 80_000,
        "data.pad": 2,
        "model.depth": 34,
        "model.width": 10,
        "objective.cross_entropy": 0.0,
        "objective.adversarial": 1.0,
        "adversarial.norm": "linf",
        "adversarial.eps": 8 / 255,
        "adversarial.step_size": 2 / 255,
        "adversarial.num_steps": 10,
        "optimizer.learning_rate": 0.1,
        "optimizer.weight_decay": 2e-4,
        "optimizer.boundaries": (40_000, 60_000),
        "optimizer.decay_factor": 0.1,
    },
    "outlier_exposure_cifar10": SGD
    | {
        "num_steps": 3_910,  # ten epochs of 391
        "data.pad": 4,
        "data.outliers_batch_size": 256,
        "model.depth": 40,
        "model.width": 2,
        "model.dropout_rate": 0.3,
        "objective.outliers": 0.1,
        "outliers.margin_in": -23.0,
        "outliers.margin_out": -5.0,
        "optimizer.learning_rate": 1e-3,
        "optimizer.decay": "cosine",
        "optimizer.weight_decay": 5e-4,
    },
}


def official(docstring):
    """The arguments of the quoted command, the official defaults for the others."""
    _, _, line = docstring.partition("python train_wrn_ebm.py ")
    line, _, _ = line.partition("\n\n")
    ng_ebm = "--energy_variance_loss" in line
    parser = argparse.ArgumentParser()
    for flag, default in {
        "lr": 1e-4,
        "p_x_weight": 0.0 if ng_ebm else 1.0,
        "p_y_given_x_weight": 1.0,
        "p_x_y_weight": 0.0,
        "energy_variance_loss": 0.0,
        "energy_derivative_loss": 0.0,
        "sigma": 0.03,
        "weight_decay": 0.0,
        "dropout_rate": 0.0,
        "reinit_freq": 0.05,
        "sgld_lr": 1.0,
        "sgld_std": 0.01,
        "decay_rate": 0.3,
    }.items():
        parser.add_argument(f"--{flag}", type=float, default=default)
    for flag, default in {
        "width": 10,
        "depth": 28,
        "warmup_iters": -1,
        "batch_size": 64,
        "n_epochs": 150 if ng_ebm else 200,
        "n_steps": 20,
        "buffer_size": 10_000,
        "n_valid": 5_000,
        "labels_per_class": -1,
    }.items():
        parser.add_argument(f"--{flag}", type=int, default=default)
    for flag in ("dataset", "optimizer", "save_dir", "norm"):
        parser.add_argument(f"--{flag}")
    for flag in ("plot_uncond", "class_cond_p_x_sample"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args(shlex.split(line))


def test_every_file_is_compared():
    assert {path.stem for path in FILES if path not in WITH_COMMAND} == set(FAMILY)


@pytest.mark.parametrize("name, values", FAMILY.items())
def test_the_config_is_that_of_the_program(name, values):
    path = next(path for path in FILES if path.stem == name)
    c = config.flatten(load_config(str(path)))
    config.check(load_config(str(path)))
    assert {key: c[key] for key in values} == values
    assert f"--config=configs/official/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", WITH_COMMAND, ids=lambda path: path.stem)
def test_the_config_is_the_command_line(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    a, c = official(docstring), load_config(str(path))
    config.check(c)
    num_steps = a.n_epochs * STEPS_PER_EPOCH
    boundaries = [e * STEPS_PER_EPOCH for e in (160, 180)]
    assert {
        "data.name": a.dataset,
        "data.num_valid": a.n_valid,
        "data.labels_per_class": max(a.labels_per_class, 0),
        "data.pad": 4,
        "data.flip": a.dataset != "svhn",
        "data.noise_std": a.sigma,
        "batch_size": a.batch_size,
        "num_steps": num_steps,
        "model.name": "wide_resnet",
        "model.depth": a.depth,
        "model.width": a.width,
        "model.norm": a.norm or "",
        "model.dropout_rate": a.dropout_rate,
        "objective.cross_entropy": a.p_y_given_x_weight,
        "objective.p_x": a.p_x_weight,
        "objective.p_x_y": a.p_x_y_weight,
        "objective.energy_variance": a.energy_variance_loss,
        "objective.approximate_mass": a.energy_derivative_loss,
        "sgld.step_size": a.sgld_lr,
        "sgld.noise_std": a.sgld_std,
        "sgld.num_steps": a.n_steps,
        "sgld.buffer_size": a.buffer_size,
        "sgld.reinit_prob": a.reinit_freq,
        "sgld.class_conditional": a.class_cond_p_x_sample,
        "sgld.train_mode": False,
        "optimizer.name": a.optimizer,
        "optimizer.learning_rate": a.lr,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.999,
        "optimizer.warmup_steps": a.warmup_iters,
        "optimizer.decay_factor": a.decay_rate,
        "optimizer.weight_decay": a.weight_decay,
        "optimizer.boundaries": tuple(b for b in boundaries if b < num_steps),
        "optimizer.clip_norm": 0.0,
        "recovery.max_loss": 1e8,
        "eval.noise_std": a.sigma,
    }.items() - config.flatten(c).items() == set()
    # Only chains and p(x) tell one batch from two, or draws with and without return.
    if a.energy_variance_loss == 0:
        assert c.data.separate_streams and c.sgld.replace
    assert f"--config=configs/official/{path.name}" in docstring
