"""Every file of examples/: trained, resumed, loaded, evaluated and reported on."""

import ast
import csv
import importlib.util
import io
import json
import pathlib
import threading
import urllib.request

import numpy as np
import pytest
import sklearn.datasets
import small_runs
from PIL import Image

import ebmjax
from ebmjax import config_file

FOLDER = pathlib.Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
SHORT = {
    "num_steps": 4,
    "batch_size": 16,
    "data": {"num_valid": 40},
    "sgld": {"num_steps": 2, "buffer_size": 400},
    "every": {"log": 2, "checkpoint": 2, "samples": 2},
    "tensorboard": False,
    "eval": {
        "tasks": ("classification", "calibration", "ood", "samples"),
        "ood": {"num_images": 32, "refine_steps": 2, "sets": ("uniform",)},
        "attacks": {
            "num_images": 16,
            "eps_linf": (8.0,),
            "eps_l2": (0.5,),
            "num_steps": 2,
            "distance_rounds": 1,
            "refine_images": 4,
            "distal_steps": 2,
        },
        "energies": {"num_images": 16, "num_steps": 2},
        "counterfactuals": {"num_steps": 2},
        "samples": {"num_chains": 20, "num_steps": 2, "num_reference": 40},
    },
}


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def short(**changes):
    c = ebmjax.config.default()
    c.update(SHORT)
    c.data.update(name="digits", pad=0, flip=False)
    c.model.update(name="mlp", features=(16,))
    c.update(changes)
    return c


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A run of the package's own, for examples that evaluate one."""
    workdir = tmp_path_factory.mktemp("digits")
    ebmjax.fit(short(objective={"p_x": 0.1}), workdir)
    return workdir


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_uses_public_names(name):
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 40
    tree = ast.parse(source)
    public = {"ebmjax", "ebmjax.eval.task", "ebmjax.eval.tasks"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("ebmjax"):
            assert node.module in public
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "ebmjax":
                assert node.attr in ebmjax.__all__


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, needed_again",
    [
        ("own_network", "network"),
        ("own_sampler", "sampler"),
        ("own_term", None),
        ("own_optimizer", None),
    ],
)
def test_a_recipe_in_a_config_file(name, needed_again, tmp_path):
    """Trained, stopped, resumed, loaded with and without the recipe, evaluated."""
    source = str(FOLDER / f"{name}.py")
    c = config_file.load_config(source)
    c.update(SHORT)
    recipe = config_file.recipe_of(source, c)
    c.num_steps = 2
    ebmjax.fit(c, tmp_path, recipe=recipe)
    c.num_steps = 4
    run = ebmjax.fit(c, tmp_path, recipe=recipe)
    assert run.step == 4
    x = run.splits().test.image[:8]
    if needed_again:
        message = f"trained with {needed_again} of a recipe"
        with pytest.raises(ValueError, match=message):
            ebmjax.load(tmp_path)
    again = ebmjax.load(tmp_path, recipe=recipe if needed_again else None)
    np.testing.assert_array_equal(again.logits(x), run.logits(x))
    # What others are evaluated as in their own tests.
    tasks = c.eval.tasks if needed_again else ("classification", "calibration")
    results = ebmjax.evaluate(again, tasks=tasks)
    assert ebmjax.eval.evaluate.failures(results) == {}
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_own_data_folder(tmp_path, capsys):
    x, y = sklearn.datasets.load_digits(n_class=3, return_X_y=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        path = tmp_path / "photos" / "zero one two".split()[label] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 36)).save(path)
    changes = SHORT | {"sgld": {"num_steps": 2, "buffer_size": 300}}
    changes["data"] = {"num_valid": 40, "image_size": 8}
    main = example("own_data_folder").main
    run = main(tmp_path / "photos", tmp_path / "run", **changes)
    assert run.class_names == ("one", "two", "zero")
    assert run.image_shape == (8, 8, 1) and run.step == 4
    assert "accuracy" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()
    changes["num_steps"] = 6
    assert main(tmp_path / "photos", tmp_path / "run", **changes).step == 6


@pytest.mark.slow
def test_own_vectors(tmp_path):
    main = example("own_vectors").main
    changes = SHORT | {"data": {}, "sgld": SHORT["sgld"] | {"step_size": 0.1}}
    run = main(tmp_path, **changes)
    assert run.image_shape == (64,) and run.model.scaling.mean.shape == (64,)
    again = main(tmp_path, **(changes | {"num_steps": 6}))
    assert again.step == 6
    loaded = ebmjax.load(tmp_path, data=run.splits())
    x = run.splits().test.image
    np.testing.assert_array_equal(loaded.logits(x), again.logits(x))
    results = ebmjax.evaluate(loaded, tasks=("classification", "ood", "samples"))
    assert results["classification"]["num_images"] == len(x)
    assert "vectors" in results["samples"]["skipped"]
    assert "auroc" in results["ood"]["mean"]["log_density"]
    sample = loaded.sample(ebmjax.energy.jax.random.key(0), n=100, steps=1)
    assert sample.max() > 4  # in the units of the data, not standardised


@pytest.mark.slow
def test_own_writer(tmp_path):
    run = example("own_writer").main(tmp_path, **SHORT)
    assert run.step == 4
    with (tmp_path / "csv" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert np.isfinite([float(row["loss"]) for row in rows]).all()


@pytest.mark.slow
def test_own_score(digits_run):
    auroc = example("own_score").main(digits_run)
    assert 0 <= auroc <= 1
    assert "gap of the two largest logits" in (digits_run / "report.html").read_text()


@pytest.mark.slow
def test_own_attack(digits_run):
    results = example("own_attack").main(digits_run)["attacks"]
    (row,) = results["norms"]["linf"]["attacks"]["corner"]
    assert 0 <= row["accuracy"] <= results["clean_accuracy"]
    assert "corner" in (digits_run / "report.html").read_text()


@pytest.mark.slow
def test_own_task(digits_run):
    numbers = example("own_task").main(digits_run)["rotation"]
    run = ebmjax.load(digits_run)
    test = run.splits().test
    answers = run.logits(np.rot90(test.image, axes=(1, 2))).argmax(axis=1)
    assert numbers["accuracy"] == np.mean(answers == test.label)
    assert "Rotation" in (digits_run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")  # of Optuna and what it imports
def test_optuna_search(tmp_path):
    pytest.importorskip("optuna")
    c = short()
    changes = {name: c[name] for name in ("model", "every", "eval", "tensorboard")}
    changes |= {"batch_size": 16, "num_steps": 2}
    study = example("optuna_search").main(tmp_path, num_trials=2, **changes)
    assert len(study.trials) == 2
    for trial in study.trials:
        c = ebmjax.load(tmp_path / str(trial.number)).config
        assert c.objective.p_x == trial.params["objective.p_x"]
        results = ebmjax.eval.evaluate.read(tmp_path / str(trial.number))
        assert trial.value == results["calibration"]["as_trained"]["ece"]
    assert study.best_value == min(trial.value for trial in study.trials)


def test_any_logits(tmp_path):
    results = example("any_logits").main(tmp_path)
    assert ebmjax.eval.evaluate.failures(results) == {}
    assert results["classification"]["accuracy"] > 0.9
    assert results["ood"]["mean"]["log_density"]["auroc"] > 0.5
    assert "it needs the model" in results["attacks"]["skipped"]
    assert "saved logits" in (tmp_path / "report.html").read_text()


def test_serve(tmp_path):
    run = small_runs.untrained()
    path = tmp_path / "digits.jaxexport"
    ebmjax.export.save(run, path)
    data = run.splits()
    test, log_p = data.test.image, run.log_density(data.test.image)
    unusual = np.quantile(run.log_density(data.valid.image), 0.05)
    with example("serve").main(path, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for i in (log_p.argmin(), log_p.argmax()):
            file = io.BytesIO()
            Image.fromarray(test[i, ..., 0]).save(file, "PNG")
            with urllib.request.urlopen(address, file.getvalue()) as reply:
                answer = json.loads(reply.read())
            (p,) = run.predict_proba(test[i : i + 1])
            assert answer["class"] == str(p.argmax())
            assert answer["confidence"] == pytest.approx(p.max(), abs=1e-5)
            assert answer["seen"] == bool(log_p[i] >= unusual)
        server.shutdown()
    assert log_p.min() < unusual < log_p.max()
