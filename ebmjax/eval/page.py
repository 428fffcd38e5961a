"""What a page is made of: panels, tables, sections, and the template they go into."""

import base64
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from ebmjax.eval import charts


class Panel(NamedTuple):
    body: Markup  # an <svg> or <img>
    title: str
    caption: str


class Row(NamedTuple):
    cells: list[str]
    best: tuple[int, ...] = ()


class Table(NamedTuple):
    title: str
    head: list[str]
    rows: list[Row]
    text: str = ""


class Tiles(NamedTuple):
    title: str
    text: str
    rows: list[Panel]


class Section(NamedTuple):
    title: str
    text: str
    charts: list[Panel]
    tables: list[Table] = []
    tiles: Tiles | None = None
    more_tables: list[Table] = []
    more: list[Panel] = []
    more_title: str = ""
    settings: str = ""


def render(template: str, **content) -> str:
    """One of the templates beside this file, filled in; text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ebmjax.eval"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(content)


def drawn(figure, name, title, caption="") -> Panel:
    return Panel(Markup(charts.svg(figure, name)), title, caption)


def shown(folder, file, title, caption="") -> Panel:
    return Panel(image((folder / file).read_bytes(), title), title, caption)


def image(png: bytes, alt: str) -> Markup:
    data = base64.b64encode(png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, data)


def arrays_of(path):
    with path.open("rb") as file:
        return dict(np.load(file))
