"""What a page is made of: panels, tables, sections, and the template they go into."""

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jinja2
import numpy as np
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from ebmjax.eval.report import charts


class Panel(NamedTuple):
    body: Markup  # an <svg> or <img>
    title: str
    caption: str
    chart: Figure | None = None  # of the <svg>
    name: str = ""  # of the chart, which a report also writes as NAME.png


class Row(NamedTuple):
    cells: Sequence[str]
    best: tuple[int, ...] = ()  # the cells to be set in bold
    marks: Mapping[int, str] = MappingProxyType({})  # after cells, in small type


class Table(NamedTuple):
    title: str
    head: Sequence[str]
    rows: Sequence[Row]
    text: str = ""


class Definition(NamedTuple):
    term: str
    text: str  # one sentence
    source: str = ""  # authors and year


class Tiles(NamedTuple):
    title: str
    text: str
    tiles: Sequence[Panel]


class Section(NamedTuple):
    text: str
    panels: Sequence[Panel] = ()
    tables: Sequence[Table] = ()
    tiles: Tiles | None = None
    more_title: str = ""  # of what is folded away
    more_tables: Sequence[Table] = ()
    more_panels: Sequence[Panel] = ()
    title: str = ""  # the task's, if empty
    settings: str = ""


def render(template: str, **content) -> str:
    """One of the templates beside this file, filled in; text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebmjax.eval.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(content)


def figure_panel(figure: Figure, name: str, title: str, caption: str = "") -> Panel:
    """A chart; `name` must be unique in the page."""
    return Panel(Markup(charts.svg(figure, name)), title, caption, figure, name)


def picture_panel(path: epath.Path, title: str, caption: str = "") -> Panel:
    """A PNG file. Raises FileNotFoundError if it is not there."""
    return Panel(image_tag(path.read_bytes(), title), title, caption)


def image_tag(png: bytes, alt: str) -> Markup:
    data = base64.b64encode(png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, data)


def load_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file."""
    with path.open("rb") as file:
        return dict(np.load(file))
