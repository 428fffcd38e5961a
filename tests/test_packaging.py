"""What is installed: declared dependencies, and the files of the wheel."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import golden_configs
import pytest

import ebmjax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {  # where its name is not that of the module
    "absl": "absl-py",
    "google.protobuf": "protobuf",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
}
# What others import without declaring it, and what is declared to be used from now on.
NOT_IMPORTED = {"importlib-resources", "flatbuffers"}


def names(requirements):
    return {
        re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements
    }


def third_party(tree):
    """Distributions that these statements import."""
    for node in tree:
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module]
        for module in modules:
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top == "ebmjax":
                continue
            known = [d for m, d in DISTRIBUTIONS.items() if f"{module}.".startswith(m)]
            yield known[0] if known else top.replace("_", "-").lower()


SOURCES = [ast.parse(p.read_text()) for p in (ROOT / "ebmjax").rglob("*.py")]
REQUIRED = names(PROJECT["dependencies"])
EXTRAS = {
    name: names(requirements)
    for name, requirements in PROJECT["optional-dependencies"].items()
    if name not in ("all", "test", "docs")
}


def test_what_is_imported_is_declared():
    at_once = {name for tree in SOURCES for name in third_party(tree.body)}
    anywhere = {name for tree in SOURCES for name in third_party(ast.walk(tree))}
    assert at_once - REQUIRED == set()
    assert anywhere - REQUIRED - set().union(*EXTRAS.values()) == set()
    assert REQUIRED - anywhere <= NOT_IMPORTED


@pytest.mark.parametrize(
    "file, without",  # the tests need no TensorFlow, and on the newest no PyTorch
    [
        ("constraints.txt", {"tensorflow-cpu"}),
        ("constraints-newest.txt", {"tensorflow-cpu", "torch", "pyautoattack"}),
    ],
)
def test_a_declared_package_has_a_recorded_version(file, without):
    text = (ROOT / file).read_text().splitlines()[1:]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in text}
    declared = REQUIRED.union(*EXTRAS.values()) - without
    assert declared - pinned == set()


def test_the_extra_all_has_every_extra():
    (text,) = PROJECT["optional-dependencies"]["all"]
    accelerators = {"cuda12", "cuda13", "tpu"}  # one of them at a time
    found = set(re.search(r"\[(.*)\]", text)[1].split(","))
    assert found == set(EXTRAS) - accelerators


def test_type_checkers_see_the_names_that_are_loaded_lazily():
    stub = ast.parse((ROOT / "ebmjax" / "__init__.pyi").read_text())
    names = {
        alias.asname
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == set(ebmjax.__all__)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_the_whole_package(installed):
    package = ROOT / "ebmjax"
    files = {p.relative_to(package) for p in package.rglob("*") if p.is_file()}
    expected = {p for p in files if "__pycache__" not in p.parts}
    expected |= {pathlib.Path("configs", f"{name}.py") for name in golden_configs.NAMES}
    root = installed / "ebmjax"
    assert {p.relative_to(root) for p in root.rglob("*") if p.is_file()} == expected
    assert pathlib.Path("py.typed") in expected
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert f"\nVersion: {ebmjax.__version__}\n" in metadata.read_text()
    (tops,) = [{p.name.split("-")[0] for p in installed.iterdir()}]
    assert tops == {"ebmjax"}


@pytest.mark.parametrize(
    "source", ["jem_digits", "configs/jem_digits.py:small", "official/jem_cifar10"]
)
def test_an_installed_config_is_found_from_an_empty_directory(
    source, installed, tmp_path
):
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import ebmjax; from ebmjax import cli, config\n"
        f"c = cli.load_config({source!r}); config.check(c); print(ebmjax.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == str(installed / "ebmjax" / "__init__.py"), done.stderr
