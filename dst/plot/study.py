"""A study's statistics: which scores tell errors, groups against their error rate, the marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dst.core.statistics_results import Statistic
from dst.core.study_summary import StudySummary
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER, SCORE_COLOURS
from dst.plot.text import label, number, short
from dst.plot.theme import AXIS, figure

_ROW, _LEGEND = 44, 34
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
_NAMES = 28
"""Characters of a name that a phone's width holds beside a row."""


def study_scores(found: StudySummary) -> go.Figure:
    """How well each score tells an error, at each depth: AUROC with its interval.

    A row per score, a symbol per depth; a line is the 95 % interval over groups. .5 is chance; the
    dotted line is the maximum probability, which is known only at the end. Hovering says what the
    score adds to that. A score that is undefined throughout has an empty row.
    """
    fig = figure(_LEGEND + _ROW * max(1, len(found.scores)) + AXIS)
    n = len(found.depths)
    for j, depth in enumerate(found.depths):
        shift = 0.0 if n == 1 else 0.3 * (2 * j / (n - 1) - 1)
        cells = [found.auroc[i * n + j] for i in range(len(found.scores))]
        gains = [found.over_confidence[i * n + j] for i in range(len(found.scores))]
        colour = SCORE_COLOURS[j % len(SCORE_COLOURS)]
        places = np.arange(len(cells)) + shift
        fig.add_trace(
            go.Scatter(
                x=[x for one in cells for x in (one.interval.low, one.interval.high, None)],
                y=[y for place in places for y in (place, place, None)],
                mode="lines",
                line={"color": colour, "width": 2},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        fig.add_trace(
            go.Scatter(
                x=[one.value for one in cells],
                y=places,
                mode="markers",
                name=f"{depth:.0%} of depth",
                marker={"color": colour, "size": 9, "symbol": _SYMBOLS[j % len(_SYMBOLS)]},
                hovertext=[
                    f"<b>{label(name)}</b> at {depth:.0%}<br>AUROC {_told(own)}"
                    f"<br>over maximum probability {_told(gain)}<br>{own.n} cases"
                    for name, own, gain in zip(found.scores, cells, gains, strict=True)
                ],
                hoverinfo="text",
            )
        )
    fig.add_vline(x=0.5, line={"color": OTHER, "width": 1})
    if not found.confidence.reason:
        fig.add_vline(x=found.confidence.value, line={"color": OTHER, "width": 2, "dash": "dot"})
    fig.update_layout(
        xaxis={"title": {"text": "AUROC of a low score for an error"}, "fixedrange": True},
        yaxis=_names(found.scores),
    )
    return fig


def study_groups(found: StudySummary) -> go.Figure:
    """Mean score and error rate of every group, at the score and depth that `StudySummary` shows.

    A point is a group, such as a word, larger where it has more cases. Correlations of groups are
    ecological: they can be far larger than those of the cases in them.
    """
    fig = figure(330 + AXIS)
    there = ~np.isnan(found.group_score) & ~np.isnan(found.error_rate)
    size = found.group_size[there]
    fig.add_trace(
        go.Scatter(
            x=found.group_score[there],
            y=found.error_rate[there],
            mode="markers",
            marker={
                "color": CONTEXTUAL,
                "opacity": 0.75,
                "size": 6 + 10 * np.sqrt(size / max(1, size.max(initial=1))),
            },
            hovertext=[
                f"<b>{label(name)}</b><br>score {number(score)}<br>errors {rate:.0%} of {n}"
                for name, score, rate, n in zip(
                    np.array(found.groups, dtype=object)[there],
                    found.group_score[there], found.error_rate[there], size, strict=True,
                )
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )  # fmt: skip
    fig.update_layout(
        xaxis={"title": {"text": label(f"mean {found.shown}")}, "fixedrange": True},
        yaxis={"title": {"text": "error rate"}, "range": [-0.05, 1.05], "fixedrange": True},
    )
    return fig


def study_marks(found: StudySummary) -> go.Figure:
    """How often each mark is found in failing and in correct runs.

    A mark of the moment in which a hallucination begins should not be found where none does: what
    is found in correct runs is its false alarm.
    """
    fig = figure(_LEGEND + _ROW * max(1, len(found.marks)) + AXIS)
    failing, correct = found.count("hallucination"), found.count("correct")
    rows = (
        ("failing runs", found.in_failing, failing, ASSOCIATIVE),
        ("correct runs", found.in_correct, correct, CONTEXTUAL),
    )
    for name, counts, n, colour in rows:
        fig.add_trace(
            go.Bar(
                y=np.arange(len(found.marks)),
                x=counts / n if n else np.full(len(counts), np.nan),
                orientation="h",
                name=f"{name} ({n})",
                marker={"color": colour},
                hovertext=[
                    f"<b>{label(mark)}</b><br>{count} of {n} {name}"
                    for mark, count in zip(found.marks, counts, strict=True)
                ],
                hoverinfo="text",
            )
        )
    fig.update_layout(
        barmode="group",
        xaxis={"title": {"text": "share of runs"}, "range": [0, 1.02], "fixedrange": True},
        yaxis=_names(found.marks, lines=True),
    )
    return fig


def _names(texts: Sequence[str], *, lines: bool = False) -> dict[str, object]:
    """An axis of names; with ``lines`` what stands in a name's last brackets is a second line."""
    if lines:
        parts = [text.removesuffix(")").split(" (", 1) for text in texts]
        shown = ["<br>".join(label(short(part, _NAMES)) for part in one) for one in parts]
    else:
        shown = [label(short(text, _NAMES)) for text in texts]
    return {
        "tickmode": "array",
        "tickvals": list(range(len(texts))),
        "ticktext": shown,
        "range": [len(texts) - 0.5, -0.5],
        "fixedrange": True,
        "zeroline": False,
    }


def _told(one: Statistic) -> str:
    if one.reason:
        return f"undefined: {label(one.reason)}"
    ends = one.interval
    between = "" if ends.reason else f" ({number(ends.low)} to {number(ends.high)})"
    return f"{number(one.value)}{between}"
