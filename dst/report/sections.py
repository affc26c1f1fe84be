"""The sections of a report's page, in their order.

A section is one row of `SECTIONS` and one template of its name in ``sections/``: its title, when
it is there, the figure it shows, and what its template reads besides ``report``. Sentences of the
verdict point to a section by `Claim.rests_on`: its name, or one of `_ANCHORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from dst.core.claims import Claim
from dst.core.drift_results import Drift
from dst.core.importance_results import ConceptImportance
from dst.core.map_results import SemanticMap
from dst.core.results import Report
from dst.core.span_results import Spans
from dst.report.concept_rows import (
    drift_values,
    importance_values,
    map_values,
    spans_values,
)
from dst.report.failure_rows import failure_values
from dst.report.flow_rows import carried
from dst.report.inferred_rows import inferred_values
from dst.report.reproduce import command_line, python_lines
from dst.report.rows import (
    MARK_KINDS,
    OUTCOMES,
    REPAIRS,
    mark_kind,
    marks_by_kind,
    strip,
    unanswered,
)
from dst.report.sums import sum_terms

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MOST_STRIP_ROWS = 17


def _nothing(report: Report) -> dict[str, Any]:
    return {}


def _always(report: Report) -> bool:
    return True


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        name: Of its template, its anchor and its figure.
        title: Its heading, or one for each report.
        present: Whether a report has it.
        figure: The figure it shows, if it shows one.
        values: What its template reads besides ``report``.
    """

    name: str
    title: str | Callable[[Report], str]
    present: Callable[[Report], bool] = _always
    figure: Callable[[Report], go.Figure] | None = None
    values: Callable[[Report], dict[str, Any]] = _nothing

    def title_of(self, report: Report) -> str:
        """The heading for a report."""
        return self.title if isinstance(self.title, str) else self.title(report)


_ANCHORS = {
    "sum": "outcome",
    "cause": "outcome",
    "arrival": "pathways",
    "route": "carriers",
    "lens": "strip",
}
"""What a sentence rests on -> the section that has the number, where the names differ."""


def anchor_of(claim: Claim, titles: Mapping[str, str]) -> str:
    """The section with a sentence's number, "" if the page has none."""
    wanted = _ANCHORS.get(claim.rests_on, claim.rests_on)
    return wanted if wanted in titles else "outcome" if claim.rests_on == "inferred" else ""


# -- what each section shows ---------------------------------------------------------------------


def _prompt(report: Report) -> dict[str, Any]:
    from dst.plot.tokens import prompt

    return {"prompt": Markup(prompt(report.trace).html)}  # escaped there, token by token


def _outcome(report: Report) -> dict[str, Any]:
    return {
        "outcome": OUTCOMES.get(report.outcome, report.outcome),
        "warning": unanswered(report),
        "terms": sum_terms(report.pathways) if report.pathways else [],
    }


def _strip(report: Report) -> dict[str, Any]:
    return {"strip": strip(report.lens, _MOST_STRIP_ROWS)}


def _pathways(report: Report) -> go.Figure:
    from dst import plot

    assert report.pathways is not None
    return plot.pathways(report.pathways)


def _repairs(report: Report) -> go.Figure:
    from dst import plot

    assert report.repairs is not None
    return plot.repairs(report.repairs)


def _attribution(report: Report) -> go.Figure:
    from dst import plot

    assert report.attribution is not None
    return plot.attribution(report.attribution)


def _semantic_map(report: Report) -> go.Figure:
    from dst import plot

    return plot.semantic_map(cast(SemanticMap, report.semantic_map))


def _importance(report: Report) -> go.Figure:
    from dst import plot

    return plot.concept_importance(cast(ConceptImportance, report.importance))


def _drift(report: Report) -> go.Figure:
    from dst import plot

    return plot.drift(cast(Drift, report.drift))


def _spans(report: Report) -> go.Figure:
    from dst import plot

    return plot.spans(cast(Spans, report.spans))


def _margin(report: Report) -> go.Figure:
    """The margin with the marks on the lens; causal ones stand with the interventions."""
    from dst import plot
    from dst.plot.marks import marks_on

    _, others = marks_on(report.markers, _without_margin(report).names)
    on_margin = [mark for mark in others if mark_kind(mark) != "causal"]
    return plot.lens(report.lens, report.trace, on_margin)


def _scores(report: Report) -> go.Figure:
    from dst import plot
    from dst.plot.marks import marks_on

    scores = _without_margin(report)
    return plot.coherence(scores, marks_on(report.markers, scores.names)[0])


def _without_margin(report: Report) -> Any:
    scores = tuple(score for score in report.coherence.scores if score.name != "margin")
    return report.coherence.replace(scores=scores)


def _marks(report: Report) -> dict[str, Any]:
    return {"marks": marks_by_kind(report.markers.marks), "mark_kinds": MARK_KINDS}


def _provenance(report: Report) -> dict[str, Any]:
    command, left_out = command_line(report)
    return {"python": python_lines(report), "command": command, "left_out": left_out}


def _repair_title(report: Report) -> str:
    titles = {
        "hallucination": "What would have repaired it",
        "correct": "What would have broken it",
    }
    return titles.get(report.outcome, "What repairs change")


SECTIONS = (
    Section("prompt", "The prompt", values=_prompt),
    Section("outcome", "The outcome", values=_outcome),
    Section(
        "inferred",
        "What was inferred",
        present=lambda report: report.suggestion is not None,
        values=inferred_values,
    ),
    Section("strip", "What each layer was saying", values=_strip),
    Section(
        "map",
        "Concepts and their effects",
        present=lambda report: report.semantic_map is not None,
        figure=_semantic_map,
        values=map_values,
    ),
    Section(
        "importance",
        "What the answer owes to the concepts",
        present=lambda report: report.importance is not None,
        figure=_importance,
        values=importance_values,
    ),
    Section(
        "drift",
        "Where meaning drifts",
        present=lambda report: report.drift is not None,
        figure=_drift,
        values=drift_values,
    ),
    Section(
        "spans",
        "The words the answer hangs on",
        present=lambda report: report.spans is not None,
        figure=_spans,
        values=spans_values,
    ),
    Section(
        "pathways",
        "Two pathways",
        present=lambda report: report.pathways is not None,
        figure=_pathways,
    ),
    Section(
        "carriers",
        "Words and heads",
        present=lambda report: report.pathways is not None,
        values=carried,
    ),
    Section(
        "repairs",
        _repair_title,
        present=lambda report: report.repairs is not None and bool(report.repairs.names),
        figure=_repairs,
        values=lambda report: {"repair_texts": REPAIRS},
    ),
    Section(
        "failure",
        "Failure mode",
        present=lambda report: report.failure is not None,
        values=failure_values,
    ),
    Section(
        "attribution",
        "Which components wrote it",
        present=lambda report: report.attribution is not None,
        figure=_attribution,
    ),
    Section("margin", "Where it turned", figure=_margin),
    Section("scores", "Coherence scores", figure=_scores),
    Section("marks", "Marks", values=_marks),
    Section("notes", "Notes", present=lambda report: bool(report.notes)),
    Section("provenance", "Where this comes from", values=_provenance),
)
