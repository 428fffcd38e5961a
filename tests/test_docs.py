"""The pages of docs/: their code runs, their commands parse, their tables are true.

`make docs` builds them, runs the notebook and looks for missing links and pictures.
"""

import importlib.util
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from PIL import Image
from test_examples import SHORT, short

import ebmjax
from ebmjax import config_file, train
from ebmjax.eval.autoattack import driver, square
from ebmjax.keys import KEYS, TASKS

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if not path.relative_to(DOCS).parts[0].startswith("_")
}


def blocks(page, language):
    """The code blocks of a page, those in lists included."""
    pattern = rf"^ *```{language}\n(.*?)^ *```$"
    found = re.findall(pattern, PAGES[page], re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def commands():
    """python -m ebmjax... of all blocks, as their arguments."""
    texts = [block for page in PAGES for block in blocks(page, "sh")]
    for line in "\n".join(texts).replace("\\\n", " ").split("\n"):
        words = shlex.split(line.replace("<this repository>", "URL"), comments=True)
        words = [word for word in words if not re.fullmatch("[A-Z_]+=.*", word)]
        if words[:2] == ["python", "-m"]:
            yield tuple(words[2:])


COMMANDS = sorted(set(commands()))
# The notebook is run by the build.
PYTHON_PAGES = [x for x in PAGES if x != "notebook.md" and blocks(x, "python")]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    """A folder with what pages read: photos/CLASS/*.png and runs/jem_digits."""
    folder = tmp_path_factory.mktemp("docs")
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(x[:600], y, strict=False)):
        path = folder / "photos" / f"class_{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    train.fit(short(objective={"p_x": 1.0}), str(folder / "runs" / "jem_digits"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs(page, surroundings, tmp_path, monkeypatch):
    """Its blocks in order, with trainings of a few steps."""
    if "save_torch" in PAGES[page]:
        pytest.importorskip("torch")
    matplotlib.use("Agg")
    shutil.copytree(surroundings, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def short_fit(c, *args, **more):
        c = ebmjax.config.from_json(ebmjax.config.to_json(c))
        c.update(SHORT)
        c.data.image_size = min(c.data.image_size, 8)
        c.model.features = c.model.features[:2]
        c.eval.tasks = ("classification", "calibration")
        return train.fit(c, *args, **more)

    monkeypatch.setattr(ebmjax, "fit", short_fit, raising=False)
    names = {"__name__": page}
    for i, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page}, block {i + 1}", "exec"), names)


PROBE = """
import argparse, runpy, sys
from absl import app, flags
from ebmjax import cli, config, keys, sweep

def check(main, flags_parser):
    rest = flags_parser(sys.argv)[1:]
    if module == "ebmjax.main":
        config.check(cli.load_config(flags.FLAGS.config, rest))
    if module == "ebmjax.sweep":
        sweep.plan(flags.FLAGS.config, "runs", flags.FLAGS.grid, rest)
    for x in rest:
        if module == "ebmjax.eval" and x.startswith("--config."):
            key, text = x.removeprefix("--config.").split("=", 1)
            assert key.startswith("eval.") and config.KEYS[key].allows(
                config.parse(key, text)
            ), x
        elif x.startswith("-"):
            assert module in ("ebmjax.main", "ebmjax.sweep"), x
    if module == "ebmjax.eval":
        assert set(flags.FLAGS.tasks or ()) <= set(keys.TASKS)

def parse_args(self):
    parse(self)
    sys.exit()

module = sys.argv[1]
sys.argv[1:] = sys.argv[2:]
parse = argparse.ArgumentParser.parse_args
argparse.ArgumentParser.parse_args = parse_args
app.run = check
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_a_page_parses(command):
    """Flags, the config that it names, and keys with their values."""
    program = [sys.executable, "-c", PROBE, *command]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pages_have_commands_and_code():
    assert len(COMMANDS) > 20 and len(PYTHON_PAGES) > 6


def test_every_key_is_in_the_reference():
    generate = load(DOCS / "generate.py")
    rows = re.findall(r"^\| `([\w.]+)` \|", generate.keys(), re.MULTILINE)
    assert sorted(rows) == sorted(KEYS)


def test_keys_that_pages_name_are_there():
    groups = {name.split(".")[0] for name in KEYS if "." in name} - {"data", "eval"}
    named = rf"`((?:{'|'.join(groups)})\.[a-z_0-9]+)[`=]"
    own = {"objective.penalty"}  # of an example
    for page, text in PAGES.items():
        for key in re.findall(named, text):
            module, name = key.split(".")
            is_function = hasattr(getattr(ebmjax, module, None), name)
            assert key in {*KEYS, *own} or is_function, f"{page}: {key}"


def test_the_notebook_for_colab_is_that_of_the_page():
    generate = load(DOCS / "generate.py")
    assert (DOCS / "notebook.ipynb").read_text() == generate.notebook()


def test_files_that_pages_name_are_there():
    for page, text in PAGES.items():
        for path in re.findall(
            r"\(source:([^)]+)\)|`((?:examples|docs)/(?!_)[\w/.]+)`", text
        ):
            assert (ROOT / (path[0] or path[1])).exists(), f"{page}: {path}"


# What only some evaluations have.
OPTIONAL = """
TASK.error TASK.last_error TASK.skipped run.not_saved run.own
classification.top5_accuracy classification.noised
calibration.temperature.value calibration.temperature.num_valid
calibration.temperature.skipped selective.missing.SCORE
shift.corruptions.CORRUPTION.error ood.sets.SET.error ood.sets.SET.skipped
ood.not_finite.SCORE.error ood.missing ood.seen_in_training[]
attacks.norms.NORM.attacks attacks.norms.NORM.crosscheck attacks.autoattack.skipped
attacks.norms.NORM.autoattack[].judge.accuracy
attacks.norms.NORM.autoattack[].judge.seconds
attacks.norms.NORM.autoattack[].judge.confirmed
attacks.norms.NORM.autoattack[].warnings[] samples.scores.input
""".split()
NAMES = "TASK SET SCORE NORM GRADIENT KIND K CORRUPTION SEVERITY GROUP ATTACK".split()
NAMES = dict.fromkeys(NAMES, r"[^.]+") | {"COVERAGE": r"0\.\d+"}


def flat(value, prefix=""):
    """The paths of all values, without those of indices."""
    if isinstance(value, dict):
        for name, x in value.items():
            yield from flat(x, f"{prefix}.{name}" if prefix else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for x in value:
            yield from flat(x, prefix)
    else:
        yield prefix


@pytest.mark.slow
def test_the_fields_of_eval_json_are_those_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(square, "NUM_QUERIES", 5)
    driver.step_fn.cache_clear()
    c = short(objective={"p_x": 1.0})
    c.eval.ood.update(near=("interpolation",), far=("gaussian",))
    c.eval.attacks.update(norms=("linf",), refine_gradients=("straight_through",))
    c.eval.attacks.update(autoattack_eps_linf=(8.0,), autoattack_refined=True)
    run = train.fit(c, str(tmp_path))
    results = ebmjax.evaluate(run, tasks=TASKS)
    assert not ebmjax.eval.evaluate.failures(results)
    found = set(flat(results))
    page = PAGES["reference/eval_json.md"]
    fields = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert not set(OPTIONAL) - set(fields)
    matched = set()
    for field in fields:
        parts = field.replace("[]", "").split(".")
        parts = [NAMES.get(x, re.escape(x)) for x in parts]
        pattern = re.compile(r"\.".join(parts) + r"(\..*)?")
        of_field = {path for path in found if pattern.fullmatch(path)}
        assert of_field or field in OPTIONAL, f"{field} is not in eval.json"
        matched |= of_field
    rest = {x for x in found - matched if not x.startswith("calibration.temperature")}
    assert not rest, f"not on the page: {sorted(rest)}"


def cost(c):
    """Of a step, in steps of a classifier with the same batch: a forward pass and both
    gradients are one unit each."""
    batch, o = c.batch_size, c.objective
    units = 3 * batch * bool(o.cross_entropy)
    if o.p_x:
        units += (6 if c.data.separate_streams else 3) * _generative(c)
    units *= 2 if c.optimizer.sam_rho else 1
    if o.p_x:
        units += 2 * c.sgld.num_steps * _generative(c)
    if o.outliers:
        units += 3 * c.data.outliers_batch_size
    if o.adversarial:
        units += (2 * c.adversarial.num_steps + 3) * batch
    return units / (3 * batch)


def _generative(c):
    return c.data.generative_batch_size or c.batch_size


@pytest.mark.parametrize(
    "name, stated",
    {
        "jem_pp_cifar10": "9.7, 10 chain steps",
        "m_jem_cifar10": "3.7",
        "sada_jem_cifar10": "5.7",
        "hdge_cifar10": "1",
        "outlier_exposure_cifar10": "3",
        "adversarial_cifar10": "5.7",
    }.items(),
)
def test_costs_by_arithmetic(name, stated):
    number = stated.split(",")[0]
    assert f"{cost(config_file.load_config(name, [])):.2g}" == number
    assert f"| {number}" in PAGES["methods/index.md"]


def test_measured_costs_are_those_of_their_sources():
    table = PAGES["methods/index.md"]
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    row = re.search(r"NG-EBM over classifier.*\| (.*) \| (.*) \| (.*) \|", results)
    assert "{} (WRN-10-1), {} (WRN-16-2), {} (WRN-16-4)".format(*row.groups()) in table
    assert "JEM's 14.9 times" in (ROOT / "experiments" / "README.md").read_text()
    assert "| 14.9 (WRN-10-1)" in table
