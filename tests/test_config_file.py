"""What --config=SOURCE finds, and what it says where there is nothing to find."""

import pathlib
import textwrap

import pytest

from ebmjax import cli, config
from ebmjax.config_file import find_config, load_config, recipe_of

SHIPPED = pathlib.Path(__file__).parent.parent / "configs"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config file of that body into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(name, body):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("from ebmjax import config\n" + textwrap.dedent(body))
        return name

    return write


@pytest.mark.parametrize(
    "source, path, variant",
    [
        ("jem_digits", "jem_digits.py", None),
        ("jem_digits:small", "jem_digits.py", "small"),
        ("configs/jem_digits.py", "jem_digits.py", None),
        ("configs/jem_digits.py:smoke", "jem_digits.py", "smoke"),
        ("official/jem_cifar10", "official/jem_cifar10.py", None),
        ("configs/official/jem_cifar10.py:small", "official/jem_cifar10.py", "small"),
    ],
)
def test_a_shipped_config_is_found_from_any_directory(
    source, path, variant, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert find_config(source) == (SHIPPED / path, variant)


@pytest.mark.parametrize("source", ["configs/jem_digits.py", "configs/jem_digits"])
def test_a_local_file_comes_first(source, write):
    write(
        "configs/jem_digits.py",
        """
        def get_config():
            c = config.default()
            c.seed = 7
            return c
        """,
    )
    assert load_config(source).seed == 7
    assert load_config("jem_digits").seed == 0


def test_a_home_directory_is_expanded(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("mine.py", "get_config = config.default")
    assert load_config("~/mine.py").seed == 0


def test_overrides_are_read_by_the_type_of_their_key():
    overrides = ["--config.seed=3", "--config.eval.ood.sets=uniform,./photos"]
    c = load_config("jem_digits", overrides)
    assert (c.seed, c.eval.ood.sets) == (3, ("uniform", "./photos"))


def test_the_last_override_counts_but_a_list_is_given_once():
    assert load_config("jem_digits", ["--config.seed=3", "--config.seed=4"]).seed == 4
    twice = ["--config.eval.ood.sets=uniform", "--config.eval.ood.sets=constant"]
    with pytest.raises(ValueError, match="eval.ood.sets is given twice; list its"):
        load_config("jem_digits", twice)


def test_a_users_term_can_be_overridden(write):
    write("mine.py", 'get_config = lambda: config.default(terms=("mine",))')
    assert load_config("mine", ["--config.objective.mine=2"]).objective.mine == 2.0


def test_a_runs_config_json_is_a_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(config.to_json(load_config("jem_digits:smoke")))
    c = load_config(str(path), ["--config.seed=1"])
    assert (c.seed, c.num_steps, c.data.name) == (1, 4, "digits")
    assert recipe_of(str(path), c) is None
    with pytest.raises(ValueError, match="config.json has no variant 'small'"):
        load_config(f"{path}:small")
    path.write_text('{"sead": 1}')
    with pytest.raises(ValueError, match="config.json is not the .*'seed'"):
        load_config(str(path))


def test_a_recipe_is_read_from_the_file_of_the_config(write):
    source = write(
        "mine.py",
        """
        def get_config(variant="full"):
            return config.default()
        def get_recipe(c):
            return ("recipe", c.seed)
        """,
    )
    c = load_config(f"{source}:small")
    c.seed = 5
    assert cli.recipe_of(f"{source}:small", c) == ("recipe", 5)
    assert cli.recipe_of("jem_digits", c) is None


BODIES = {
    "a misspelt key": (
        """
        def get_config():
            c = config.default()
            c.optimizer.warmpu_steps = 0
            return c
        """,
        r'^mine.py, line 5: there is no such key: Did you mean "warmup_steps" [^\n]*$',
    ),
    "a misspelt group": (
        "def get_config(): config.default().optimiser.b1 = 0",
        'mine.py, line 2: there is no such key: Did you mean "optimizer"',
    ),
    "a wrong type": (
        "def get_config(): config.default().seed = 0.5",
        "mine.py, line 2: TypeError: Could not override field 'seed'",
    ),
    "no Python": ("def get_config(:", "mine.py, line 2: SyntaxError: invalid syntax"),
    "a missing package": (
        "import nothing_of_this_name",
        "mine.py, line 2: ModuleNotFoundError: No module named 'nothing_of_this_name'",
    ),
    "an undefined name": (
        "def get_config(): return seed",
        "mine.py, line 2: NameError: name 'seed' is not defined",
    ),
    "no function": ("c = 1", r"mine.py has no function get_config\(\)"),
    "no config": (
        "get_config = lambda: None",
        r"get_config\(\) of mine.py must return the ConfigDict .*, not NoneType",
    ),
}


@pytest.mark.parametrize("body, message", BODIES.values(), ids=BODIES)
def test_an_error_in_a_file_names_its_line(body, message, write):
    with pytest.raises(ValueError, match=message):
        load_config(write("mine.py", body))


def test_an_error_in_a_recipe_names_its_line(write):
    body = "get_config = config.default\ndef get_recipe(c):\n    return c.sgdl"
    source = write("mine.py", body)
    with pytest.raises(ValueError, match='mine.py, line 4: .*Did you mean "sgld"'):
        recipe_of(source, load_config(source))


@pytest.mark.parametrize(
    "source, message",
    [
        ("jem_digit", "no config 'jem_digit': .*did you mean 'jem_digits'"),
        ("configs/jem_digitz.py", "did you mean 'jem_digits'"),
        ("official/jem", "did you mean 'official/jem_cifar10"),
        ("no/where.py", "no config 'no/where.py'"),
        ("configs", "no config 'configs'"),
        ("/", "no config '/'"),
        ("", "no config ''"),
    ],
)
def test_a_config_that_is_not_there_is_refused(source, message, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        load_config(source)


def test_a_variant_of_a_file_without_variants_is_refused(write):
    write("plain.py", "def get_config(): return config.default()")
    with pytest.raises(ValueError, match="plain.py has no variant 'small'"):
        load_config("plain.py:small")
    with pytest.raises(ValueError, match="jem_digits.py, line .* 'full', 'small', 'sm"):
        load_config("jem_digits:tiny")


@pytest.mark.parametrize(
    "argument, message",
    [
        ("seed=3", "unexpected argument 'seed=3'; flags have the form --config.key="),
        ("--config.sgld.stepsize=1", "did you mean 'sgld.step_size'"),
        ("--config.sgld=1", "config has no key 'sgld'"),
        ("--config.batch_size=many", "batch_size must be an integer >= 1, not 'many'"),
    ],
)
def test_an_argument_that_is_no_override_is_refused(argument, message):
    with pytest.raises(ValueError, match=message):
        load_config("jem_digits", [argument])
