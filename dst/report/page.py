"""The report as one HTML file that asks nothing of any network.

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
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dst.core.files import write_text_atomic
from dst.core.results import Report
from dst.plot.text import number, probability, visible, word
from dst.report.reproduce import command_line, python_lines
from dst.report.rows import (
    MARK_KINDS,
    OUTCOMES,
    REPAIRS,
    account,
    carriers,
    headline,
    mark_interval,
    mark_kind,
    mark_place,
    marks_by_kind,
    strip,
    sum_terms,
    unanswered,
)

_MOST_STRIP_ROWS = 17


def write_page(report: Report, path: str | Path) -> Path:
    """Write the page atomically, and return where it is.

    Raises:
        ResultError: The path cannot be written.
    """
    return write_text_atomic(path, render_page(report))


def render_page(report: Report) -> str:
    """The page of one report: one HTML document of about 5 MB, nearly all of it Plotly."""
    from plotly.offline import get_plotlyjs

    scripts = (get_plotlyjs(), _part("page.js"))
    command, left_out = command_line(report)
    return _template().render(
        policy=_policy(scripts),
        style=Markup(_part("page.css")),
        scripts=[Markup(script) for script in scripts],
        report=report,
        title=headline(report),
        account=account(report),
        outcome=OUTCOMES.get(report.outcome, report.outcome),
        warning=unanswered(report),
        prompt=_prompt(report),
        terms=sum_terms(report.pathways) if report.pathways else [],
        carriers=carriers(report.pathways) if report.pathways else ([], []),
        repair_texts=REPAIRS,
        strip=strip(report.lens, _MOST_STRIP_ROWS),
        marks=marks_by_kind(report.markers.marks),
        mark_kinds=MARK_KINDS,
        figures=_figures(report),
        templates=_templates(),
        python=python_lines(report),
        command=command,
        left_out=left_out,
    )


def _prompt(report: Report) -> Markup:
    from dst.plot.tokens import prompt

    return Markup(prompt(report.trace).html)  # escaped there, token by token


def _figures(report: Report) -> dict[str, Any]:
    """The page's figures as JSON, in its order; those whose result is not there are left out.

    Marks stand in one figure each: causal ones with the flows and the repairs, those on scores
    with the scores, all others with the margin.
    """
    from dst import plot
    from dst.plot.marks import marks_on

    scores = report.coherence.replace(
        scores=tuple(score for score in report.coherence.scores if score.name != "margin")
    )
    on_scores, others = marks_on(report.markers, scores.names)
    drawn: dict[str, Any] = {}
    if report.pathways is not None:
        drawn["pathways"] = plot.pathways(report.pathways)
    if report.repairs is not None and report.repairs.names:
        drawn["repairs"] = plot.repairs(report.repairs)
    if report.attribution is not None:
        drawn["attribution"] = plot.attribution(report.attribution)
    on_margin = [mark for mark in others if mark_kind(mark) != "causal"]
    drawn["margin"] = plot.lens(report.lens, report.trace, on_margin)
    drawn["scores"] = plot.coherence(scores, on_scores)
    return {
        name: {"json": inert_json(figure.to_json()), "height": int(figure.layout.height)}
        for name, figure in drawn.items()
    }


def _templates() -> Markup:
    from dst.plot.theme import template

    return inert_json(
        json.dumps(
            {"light": template("light").to_plotly_json(), "dark": template("dark").to_plotly_json()}
        )
    )


def inert_json(text: str) -> Markup:
    """JSON that can stand in a ``<script>``: no tag, comment or entity is left in it."""
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


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
    return files("dst.report").joinpath(name).read_text("utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
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
        "tiny": _tiny,
    }
    return environment.from_string(_part("page.html"))


def _tiny(value: float) -> str:
    """An error of a control: ``0``, or its order of magnitude."""
    return f"{value:.0e}" if value else "0"


def _shown(value: Any) -> Any:
    """Every text that enters the page, with its control characters shown."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value, keep="\n")
    return value
