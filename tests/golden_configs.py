"""The golden texts of configs/: every key's default, and what each config changes.

python tests/golden_configs.py    # rewrites tests/golden/configs
"""

import pathlib

from ebmjax import config, presets
from ebmjax.config_file import load_config

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS, GOLDEN = ROOT / "configs", ROOT / "tests" / "golden" / "configs"
NAMES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.py")
)


def text(name: str) -> str:
    """What differs from the default in each variant of a config, sorted by key."""
    if name == "default":
        return _lines(config.flatten(config.default()))
    sections = []
    for variant in presets.VARIANTS:
        c = load_config(f"{CONFIGS / name}.py:{variant}")
        changes = config.changes(config.default(), c)
        lines = _lines({key: value for key, (_, value) in changes.items()})
        sections.append(f"[{variant}]\n{lines}")
    return "\n".join(sections)


def _lines(flat):
    return "".join(f"{key} = {value!r}\n" for key, value in sorted(flat.items()))


if __name__ == "__main__":
    for name in ["default", *NAMES]:
        path = GOLDEN / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(name))
