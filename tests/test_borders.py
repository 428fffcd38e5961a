"""What each module may know: imports point downwards, and the core needs only jax."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "ebmjax"
HEAVY = (
    "tensorflow",
    "ml_collections",
    "absl",
    "flax",
    "optax",
    "orbax",
    "matplotlib",
    "sklearn",
    "datasets",
    "tensorflow_datasets",
)


def loaded(code):
    """Which of HEAVY a fresh interpreter has loaded after `code`."""
    code += f"; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return ast.literal_eval(out.stdout)


@pytest.mark.parametrize("module", ["energy", "sgld", "replay", "losses"])
def test_the_core_needs_only_jax_and_chex(module):
    # chex brings absl, which is small.
    assert loaded(f"from ebmjax import {module}") in ([], ["absl"])
    tree = ast.parse((ROOT / "ebmjax" / f"{module}.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names <= {"jax", "chex", "numpy", "ebmjax"}


def test_data_and_plain_import_are_light():
    assert loaded("import ebmjax, ebmjax.data") == []


def test_only_parallel_speaks_of_device_meshes():
    names = {"pmap", "shard_map", "Mesh", "distributed"}
    for path in PACKAGE.rglob("*.py"):
        if path.name in ("parallel.py", "processes.py"):
            continue
        tree = ast.parse(path.read_text())
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not used & names, path


def test_only_these_modules_compile():
    """A library function is compiled by its caller, with all that surrounds it."""
    allowed = {"parallel", "kernels.conv", "eval.crosscheck", "eval.judge"}
    allowed |= {"export.program"}
    for module, path in MODULES.items():
        if module not in allowed:
            assert "jax.jit" not in path.read_text(), path


def test_pure_modules_know_no_config():
    pure = "energy sgld replay losses objectives models optim train_step augment"
    for name in pure.split():
        source = (PACKAGE / f"{name}.py").read_text()
        assert "ml_collections" not in source and "config" not in source, name


@pytest.mark.parametrize(
    "module, text",
    [
        ("main", "Trains a run"),
        ("sweep", "Trains and evaluates"),
        ("export", "Writes a trained run"),
        ("push", "Uploads a trained run"),
    ],
)
def test_help_comes_at_once(module, text):
    """It imports no numerical package, and few modules: that takes 0.1 s."""
    program = (
        "import atexit, runpy, sys; sys.argv = ['ebmjax', '--help']\n"
        "atexit.register(lambda: print('modules:', *sys.modules))\n"
        f"runpy.run_module('ebmjax.{module}', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    help_text, _, modules = done.stdout.partition("modules: ")
    assert text in help_text and "--config:" in help_text
    tops = {name.split(".")[0] for name in modules.split()}
    assert not tops & {"jax", "numpy", *HEAVY} - {"ml_collections", "absl"}
    assert len(modules.split()) < 400


# A module may import those of lower lines and of its own. "data" is the package with
# all of its modules, unless a line names one of them.
LAYERS = """
    keys
    config
    config_file presets
    kernels
    energy sgld replay losses
    metrics augment optim chain_starts guard norms adversarial
    eval.calibration
    models terms logit_queue
    processes
    parallel signals objectives
    data
    recipe
    train_step
    rundir
    metrics_log trackers
    checkpoint writers pictures batching
    portable
    facts hub
    stored
    runs sizes
    plan
    recovery
    train
    interop
    eval.refinement eval.frechet eval.samples eval.selective eval.inception
    eval.corruptions eval.energies eval.feature_scores eval.openood
    eval.margins
    eval.autoattack
    eval.attacks eval.ood
    eval.report.charts eval.report.page eval.result eval.crosscheck eval.judge
    eval.report.glossary
    eval.task
    eval.ood_sets eval.robustness eval.sample_scores eval.fit_features
    eval.autoattack.evaluation
    eval.tasks
    eval.report.ranking
    eval.report eval.other_classifiers
    eval.evaluate
    eval
    export.card export.program
    export.files
    export
    cli
    main sweep eval.__main__ interop.__main__ data.__main__ export.__main__ push
"""


def module_name(path):
    *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(folders if name == "__init__" else [*folders, name])


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
del MODULES[""]  # whose names are loaded when they are asked for


def layers():
    """{module or package: number of its line}"""
    text, found = LAYERS.replace("\n        ", " "), {}
    for number, line in enumerate(text.strip().splitlines()):
        found |= {name: number for name in line.split()}
    return found


def layer(module):
    """The line of a module, or of the innermost package that has one."""
    known, name = layers(), module
    while name not in known:
        name, dot, _ = name.rpartition(".")
        assert dot, f"ebmjax.{module} has no place in LAYERS"
    return known[name]


def imports(path):
    """Modules of ebmjax that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name.startswith("ebmjax."):
                if name.removeprefix("ebmjax.") in MODULES:
                    yield name.removeprefix("ebmjax.")
                    break
                name = name.rpartition(".")[0]


EDGES = {(m, other) for m, path in MODULES.items() for other in imports(path)}


def test_every_module_has_a_place():
    assert all(layer(module) >= 0 for module in MODULES)


def test_imports_point_downwards():
    upward = {(m, other) for m, other in EDGES if layer(m) < layer(other)}
    assert not upward


def test_no_modules_import_each_other():
    graph = {module: {b for a, b in EDGES if a == module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
