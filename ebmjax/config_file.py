"""The config that --config=SOURCE names: files of configs, overrides, recipes."""

import importlib.util
import inspect
import pathlib
import re
import traceback
from types import ModuleType
from typing import Any

import ml_collections

from ebmjax import config
from ebmjax.config import Config

OVERRIDE = re.compile(r"--?(no)?config\.([\w.]+)(?:=(.*))?", re.DOTALL)


def load_config(source: str, arguments: list[str] | tuple[str, ...] = ()) -> Config:
    """The config that --config=`source` names, with its overrides.

    `source` is a config file, a config that ebmjax brings along ("jem_digits",
    "configs/jem_digits.py"), either of them with ":variant", or the config.json of a
    run. A local file comes first. `arguments` are overrides --config.key=value. Raises
    FileNotFoundError if there is no such config, ValueError for what is wrong in the
    file or in an argument.
    """
    path, variant = find_config(source)
    if path.suffix == ".json":
        c = _from_json(path, variant)
    else:
        c = _from_file(path, variant)
    override(c, arguments)
    return c


def override(c: Config, arguments: list[str] | tuple[str, ...]) -> None:
    """Sets the keys of overrides --config.key=value.

    Raises ValueError for an argument that is none, an unknown key or a wrong value.
    """
    earlier = set()
    for argument in arguments:
        match = OVERRIDE.fullmatch(argument)
        if match is None:
            raise ValueError(unexpected(argument))
        _, key, text = match.groups()
        value = config.parse(key, text)
        if isinstance(value, tuple) and key in earlier:
            raise ValueError(f"{argument}: {key} is given twice; list its entries: a,b")
        config.assign(c, key, value)
        earlier.add(key)


def recipe_of(source: str, c: Config) -> Any:
    """What `get_recipe(c)` of the config file `source` returns, None if it has none.

    `source` is what `load_config` takes. Raises what that raises.
    """
    path, _ = find_config(source)
    if path.suffix == ".json":
        return None
    module = _load_module(path)
    if not hasattr(module, "get_recipe"):
        return None
    return _call(path, module.get_recipe, c)


def find_config(source: str) -> tuple[pathlib.Path, str | None]:
    """The file of a config, and its variant. Raises FileNotFoundError."""
    name, variant = re.fullmatch(r"(.*?)(?::([^:/\\]*))?", source).groups()
    local = pathlib.Path(name).expanduser()
    shipped = pathlib.PurePosixPath(name.removeprefix("configs/").removesuffix(".py"))
    folder = _config_folder()
    for path in (local, pathlib.Path(f"{local}.py"), folder / f"{shipped}.py"):
        if path.is_file():
            return path, variant
    names = [p.relative_to(folder).with_suffix("") for p in folder.rglob("*.py")]
    near = config.nearest(str(shipped), [name.as_posix() for name in names])
    raise FileNotFoundError(
        f"no config {name!r}: there is no such file, nor does ebmjax have a config of"
        f" this name{near}"
    )


def _config_folder():
    """configs/, which is in the package once it is installed."""
    package = pathlib.Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _from_json(path, variant):
    if variant is not None:
        raise ValueError(f"{path} has no variant {variant!r}: it is a finished config")
    try:
        return config.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not the config.json of a run: {error}") from error


def _from_file(path, variant):
    module = _load_module(path)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise ValueError(f"{path} has no function get_config()")
    arguments = () if variant is None else (variant,)
    if variant is not None and not inspect.signature(get_config).parameters:
        raise ValueError(f"{path} has no variant {variant!r}: get_config() takes none")
    c = _call(path, get_config, *arguments)
    if not isinstance(c, ml_collections.ConfigDict):
        raise ValueError(
            f"get_config() of {path} must return the ConfigDict of"
            f" ebmjax.config.default(), not {type(c).__name__}"
        )
    return c


def _load_module(path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    _call(path, spec.loader.exec_module, module)
    return module


def _call(path, function, *arguments):
    """`function`, which is code of a user's file: errors get its name and line."""
    try:
        return function(*arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        name = str(path.absolute())
        lines = [frame.lineno for frame in frames if frame.filename == name]
        if isinstance(error, SyntaxError) and error.filename == name:
            lines = [error.lineno]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ValueError(f"{where}: {_reason(error)}") from error


def _reason(error):
    """An exception's message, without what ml_collections wraps around its hint."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    if isinstance(error, AttributeError | KeyError) and error.args:
        cause = error.args[0]  # ml_collections has a KeyError in an AttributeError
        text = str(cause.args[0] if isinstance(cause, KeyError) else cause)
        *_, last = text.splitlines() or [""]
        return f"there is no such key: {last}" if "\n" in text else sentence(error)
    return sentence(error)


def unexpected(argument: str, group: str = "config") -> str:
    """The message for an argument that is no flag."""
    return f"unexpected argument {argument!r}; flags have the form --{group}.key=value"


def sentence(error: BaseException) -> str:
    """The message on one line, after the exception's name unless it explains itself."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (
        text if isinstance(error, ValueError | FileNotFoundError) else f"{name}: {text}"
    )
