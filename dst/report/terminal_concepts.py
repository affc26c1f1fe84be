"""What was asked for besides, in a line each of a terminal: map, importance, drift, spans."""

from __future__ import annotations

from typing import cast

import numpy as np

from dst.core.drift_results import Drift
from dst.core.importance_results import ConceptImportance
from dst.core.map_results import SemanticMap
from dst.core.results import Report
from dst.core.span_results import Spans
from dst.plot.map_edges import choose
from dst.plot.text import number, visible, word
from dst.report.lines import Piece, cut, fit

_NAMES = 13


def concept_lines(report: Report, width: int) -> list[list[Piece]]:
    """A line or two for each of the four that is there, effects in logits; else none."""
    told: list[tuple[str, str]] = []
    if report.semantic_map is not None:
        told += _map(cast(SemanticMap, report.semantic_map))
    if report.importance is not None:
        told.append(("importance", _importance(cast(ConceptImportance, report.importance))))
    if report.drift is not None:
        told.append(("drift", _drift(cast(Drift, report.drift))))
    if report.spans is not None:
        told += _spans(cast(Spans, report.spans))
    return [[(fit(name, _NAMES), "dim"), (cut(says, width - _NAMES), "")] for name, says in told]


def _map(found: SemanticMap) -> list[tuple[str, str]]:
    chosen = choose(found, found.rate, most=1, strongest=0, state=None)
    says = f"{chosen.n_kept or 'none'} of {chosen.n_tested} effects at q < {found.rate:g}"
    for edge in chosen.edges:
        ends = f"{word(found.words[edge.source])} → {word(found.words[edge.target])}"
        says += f"; {ends} {_signed(edge.effect)} (states {edge.state} to {edge.to_state})"
    rows = [("concepts", says)]
    if found.positions is not None:
        places = found.positions.edges(found.rate)
        says = f"{len(places) or 'none'} from words of the prompt"
        for row in places[:1]:
            says += f"; {word(row['token'])} → {word(row['word'])} {_signed(row['effect'])}"
        rows.append(("", says))
    return rows


def _importance(owed: ConceptImportance) -> str:
    if owed.reason:
        return f"undefined: {visible(owed.reason)}"
    with np.errstate(invalid="ignore"):
        n_kept = int((owed.q < 0.05).sum())
    state, j = np.unravel_index(int(np.abs(owed.excess).argmax()), owed.excess.shape)
    largest = _signed(float(owed.excess[state, j]))
    return (
        f"{n_kept or 'none'} of {int((~np.isnan(owed.q)).sum())} cells at q < 0.05; largest "
        f"{largest} ({visible(owed.roles[j])}, state {state})"
    )


def _drift(found: Drift) -> str:
    mark = found.onset("whitened")
    if mark.reason:
        return f"no onset from the {visible(found.against)} run: {visible(mark.reason)}"
    critical = float(found.critical[found.measures.index("whitened")])
    return (
        f"from the {visible(found.against)} run, begins at state {mark.state:g} "
        f"(z over {number(critical, 1)})"
    )


def _spans(found: Spans) -> list[tuple[str, str]]:
    if not found.found:
        return [("spans", "no word is both necessary and sufficient")]
    return [
        (
            "spans" if i == 0 else "",
            f"{' … '.join(visible(text) for text in one.words)}: lost without "
            f"{number(one.necessity.mean)}, kept alone {number(one.kept.mean)} logits",
        )
        for i, one in enumerate(found.found[:2])
    ]


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)
