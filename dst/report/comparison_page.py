"""Two reports side by side as one HTML file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dst.core.comparison_results import Comparison, Difference
from dst.core.files import write_text_atomic
from dst.core.results import Report
from dst.plot.text import number
from dst.report.document import drawn, render_document
from dst.report.failure_rows import claimed_mode
from dst.report.rows import OUTCOMES, account, headline

KINDS = {
    "two cases": "Two cases, one model",
    "two models": "Two models, one case",
    "two runs": "Two runs of one case on one model",
}

GROUPS = {
    "sum": "The sum, in logits",
    "arrival": "Arrival at the answer, as a share of depth",
    "score": "DSS*, the context’s share of the evidence",
    "commitment": "Commitment, as a share of depth",
}
"""Groups of quantities in the order of the page."""


def write_comparison(found: Comparison, path: str | Path) -> Path:
    """Write the page atomically, and return where it is.

    Raises:
        ResultError: The path cannot be written.
    """
    return write_text_atomic(path, render_comparison(found))


def render_comparison(found: Comparison) -> str:
    """The page of a comparison: sentences, one figure, every quantity, both accounts."""
    from dst import plot

    return render_document(
        "comparison.html",
        title=found.sentences[0] if found.claims else KINDS.get(found.kind, found.kind),
        kind=KINDS.get(found.kind, found.kind),
        found=found,
        claims=found.claims[1:],
        sides=[_side(name, one) for name, one in zip(found.names, (found.a, found.b), strict=True)],
        plot=drawn(plot.comparison(found)),
        groups=grouped(found),
        value_of=value_of,
        spread_of=spread_of,
        told=told,
    )


def grouped(found: Comparison) -> list[tuple[str, list[Difference]]]:
    """The quantities by group, with each group's title."""
    return [
        (title, group)
        for name, title in GROUPS.items()
        if (group := [one for one in found.differences if one.group == name])
    ]


def value_of(value: float, unit: str) -> str:
    """A quantity: ``−1.38``, ``25 %``, ``none``."""
    if math.isnan(value):
        return "none"
    return _number(value, unit) + (" %" if unit == "share of depth" else "")


def spread_of(low: float, high: float, unit: str) -> str:
    """Its interval, or nothing where there is none."""
    if math.isnan(low) or low == high:
        return ""
    return f"{_number(low, unit)} to {_number(high, unit)}"


def _number(value: float, unit: str) -> str:
    return number(100 * value, 0) if unit == "share of depth" else number(value)


def told(one: Difference) -> str:
    """Whether the draws tell the two apart, in words."""
    if one.reason:
        return one.reason
    if one.method == "exact":
        return "exact"
    return "told apart" if one.told_apart else "not told apart"


def _side(name: str, report: Report) -> dict[str, Any]:
    """One of the two: its prompt, answer and account."""
    from dst.plot.tokens import prompt

    return {
        "name": name,
        "report": report,
        "prompt": Markup(prompt(report.trace).html),  # escaped there, token by token
        "headline": headline(report),
        "outcome": OUTCOMES.get(report.outcome, report.outcome),
        "sentences": [claim.says for claim in account(report)],
        "mode": claimed_mode(report)[0],
    }
