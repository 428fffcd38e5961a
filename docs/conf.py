"""The settings of the documentation: `make docs`."""

import os
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
os.environ["PYTHONPATH"] = str(ROOT)  # of the notebook's kernel

import generate  # noqa: E402
from docutils import nodes  # noqa: E402
from latex2mathml import converter  # noqa: E402

import ebmjax  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT.get("urls", {}).get(
    "Repository", "https://github.com/ebmjax/ebmjax"
)

project = author = "ebmjax"
version = release = ebmjax.__version__
html_title = f"ebmjax {release}"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated", "notebook.ipynb"]
nitpicky = False

html_theme = "furo"
html_show_copyright = False
smartquotes = False  # "last" is what one types
html_math_renderer = "mathml"  # which browsers draw without a script or a download
html_static_path = ["_static"]
html_css_files = ["ebmjax.css"]
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main"}
html_theme_options["source_directory"] = "docs/"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_update_mathjax = False
myst_substitutions = {
    "colab": "[![Open in Colab](_static/colab.svg)](https://colab.research.google.com"
    f"/github/{REPOSITORY.removeprefix('https://github.com/')}/blob/main/docs"
    "/notebook.ipynb)"
}
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "source": {"url": REPOSITORY + "/blob/main/{{path}}", "title": "{{path}}"},
    "arxiv": {"url": "https://arxiv.org/abs/{{path}}", "title": "arXiv {{path}}"},
}

nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

default_role = "code"  # `x` in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Pages of the repository exist once it is public.
linkcheck_ignore = [REPOSITORY, r"https://colab\.research\.google\.com/github/"]


def write_math(display):
    def visit(self, node):
        self.body.append(converter.convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def mark_up(app, what, name, obj, options, lines):
    """Docstrings are plain text: an indented paragraph is code, and | is no markup."""
    text, is_code = [], False
    for before, line in zip(["", *lines], lines, strict=False):
        if not before and line.startswith("    ") and not is_code:
            text += ["::", ""]
            is_code = True
        elif line and not line.startswith("    "):
            is_code = False
        text.append(line if is_code else line.replace("|", "\\|"))
    lines[:] = text


def setup(app):
    app.connect("autodoc-process-docstring", mark_up, priority=400)  # before napoleon
    inline, block = write_math("inline"), write_math("block")
    app.add_html_math_renderer("mathml", inline, block)
    generate.write_all(pathlib.Path(__file__).parent / "_generated")
