"""An HTML document that asks nothing of any network: template, style, scripts, policy.

Plotly is inlined once. Every text of a prompt or a model is escaped where it enters the page
or a figure, and the page's Content-Security-Policy lets only these two scripts run, by their
hashes: text that slipped through could still not act.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from dst.plot.text import number, probability, short, visible, word
from dst.report.rows import mark_interval, mark_place, tiny

if TYPE_CHECKING:
    import plotly.graph_objects as go


def render_document(template: str, **values: Any) -> str:
    """A whole document: ``template`` (which extends ``base.html``), style, scripts, policy."""
    from plotly.offline import get_plotlyjs

    scripts = (get_plotlyjs(), _part("page.js"))
    return _environment().get_template(template).render(
        policy=_policy(scripts),
        style=Markup(_part("page.css")),
        scripts=[Markup(script) for script in scripts],
        templates=_templates(),
        **values,
    )  # fmt: skip


def render_part(template: str, **values: Any) -> Markup:
    """A piece of a document, its texts escaped."""
    return Markup(_environment().get_template(template).render(**values))


def drawn(figure: go.Figure) -> dict[str, Any]:
    """A figure as the page's script reads it, and the height of its place."""
    return {"json": inert_json(figure.to_json()), "height": int(figure.layout.height)}


def inert_json(text: str) -> Markup:
    """JSON that can stand in a ``<script>``: no tag, comment or entity is left in it."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _templates() -> Markup:
    from dst.plot.theme import template

    return inert_json(
        json.dumps(
            {"light": template("light").to_plotly_json(), "dark": template("dark").to_plotly_json()}
        )
    )


def _policy(scripts: tuple[str, ...]) -> str:
    """Nothing may be loaded, and only these scripts may run."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts)
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def _part(name: str) -> str:
    return files("dst.report").joinpath(*name.split("/")).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_part),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "probability": probability,
        "word": word,
        "place": mark_place,
        "interval": mark_interval,
        "tiny": tiny,
        "short": short,
    }
    return environment


def _shown(value: Any) -> Any:
    """Every text that enters the page, with its control characters shown."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value, keep="\n")
    return value
