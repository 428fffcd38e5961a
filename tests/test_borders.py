import ast
import pathlib
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
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
    for path in (ROOT / "ebmjax").rglob("*.py"):
        if path.name in ("parallel.py", "processes.py"):
            continue
        tree = ast.parse(path.read_text())
        used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        assert not used & names, path


def test_nothing_in_the_library_is_jitted_but_at_the_top():
    allowed = {"train.py", "parallel.py", "conv.py"}
    for path in (ROOT / "ebmjax").glob("*.py"):
        if path.name not in allowed:
            assert "jax.jit" not in path.read_text(), path


def test_pure_modules_know_no_config():
    pure = "energy sgld replay losses objectives models optim train_step augment"
    for name in pure.split():
        source = (ROOT / "ebmjax" / f"{name}.py").read_text()
        assert "ml_collections" not in source and "config" not in source, name


def test_help_comes_at_once():
    def seconds():  # of processor time, for tests share theirs
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began = seconds()
    done = subprocess.run(
        [sys.executable, "-m", "ebmjax.main", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert "Trains a run" in done.stdout and seconds() - began < 2
    assert loaded("import ebmjax.main") == ["ml_collections", "absl"]
