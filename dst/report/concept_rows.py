"""What the sections on concepts, drift and spans say: counts, rows and their second figures."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from markupsafe import Markup

from dst.core.drift_results import Drift
from dst.core.importance_results import ConceptImportance
from dst.core.map_results import SemanticMap
from dst.core.results import Report
from dst.core.span_results import Spans
from dst.plot.map_edges import choose, small

_MOST_ROWS = 40


def map_values(report: Report) -> dict[str, Any]:
    """Edges, the prompt's places, and the rivers."""
    from dst import plot
    from dst.report.document import drawn

    found = cast(SemanticMap, report.semantic_map)
    chosen = choose(found, found.rate, most=0, strongest=0, state=None)
    edges = sorted(found.edges(), key=lambda edge: -abs(edge["effect"]))
    places = [] if found.positions is None else found.positions.edges(found.rate)
    return {
        "map": found,
        "n_kept": chosen.n_kept,
        "n_tested": chosen.n_tested,
        "edges": [edge | {"q": small(edge["q"])} for edge in edges[:_MOST_ROWS]],
        "n_edges": len(edges),
        "places": [row | {"q": small(row["q"])} for row in places[:_MOST_ROWS]],
        "n_places": len(places),
        "rivers": drawn(plot.concept_rivers(found)),
    }


def importance_values(report: Report) -> dict[str, Any]:
    """How many cells stand out, and every cell."""
    owed = cast(ConceptImportance, report.importance)
    rows = [row | {"q": "" if np.isnan(row["q"]) else small(row["q"])} for row in owed.to_records()]
    with np.errstate(invalid="ignore"):
        n_kept = int((owed.q < 0.05).sum())
    return {
        "owed": owed,
        "n_kept": n_kept,
        "n_tested": int((~np.isnan(owed.q)).sum()),
        "rows": rows,
    }


def drift_values(report: Report) -> dict[str, Any]:
    """Where drift begins by each measure, and z of every role."""
    found = cast(Drift, report.drift)
    measure = found.measures.index("whitened")
    return {
        "drift": found,
        "onsets": [(name, found.onset(name)) for name in found.measures],
        "critical": float(found.critical[measure]),
        "role_critical": float(found.role_critical[measure]),
        "rows": [
            (role, found.role_z[measure, :, i].tolist(), found.role_reasons[i])
            for i, role in enumerate(found.roles)
        ],
    }


def spans_values(report: Report) -> dict[str, Any]:
    """The prompt with its spans in place."""
    from dst import plot

    found = cast(Spans, report.spans)
    return {"spans": found, "in_place": Markup(plot.span_prompt(found).html)}  # escaped there
