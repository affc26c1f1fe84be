"""The words that an answer hangs on: in the prompt itself, and as bars with their intervals."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from dst.core.carriers import separator
from dst.core.results import Estimate
from dst.core.span_results import Span, Spans
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER, SCORE_COLOURS
from dst.plot.panels import LINE, add_heading, heading, stacked, wrapped
from dst.plot.text import label, number, visible
from dst.plot.theme import AXIS, figure, value_range
from dst.plot.tokens import PromptView

_ROW, _LEGEND, _WIDEST = 34, 40, 28
_HATCH = {"shape": "/", "fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.55, "size": 6}
_MARKS = ((ASSOCIATIVE, "double"), (SCORE_COLOURS[1], "dashed"), (SCORE_COLOURS[2], "wavy"))
"""Colour and underline of the first, the second and the third span in the prompt."""


def spans(found: Spans, n: int = 6) -> go.Figure:
    """Necessity, and what is kept, of the best spans and of every single word, in logits.

    Solid bars: what LD toward the explained answer loses when the words are resampled. Hatched
    bars: what it gains when only they stay. A span is as good as the shorter of its two bars.
    Whiskers are 95 % intervals over fills; the dotted line is LD of the prompt. Above: the ``n``
    best spans; hovering gives the share of random sets of as many words that do as well. Below:
    every word by itself, in the order of the prompt; bars to the left work against the answer.
    """
    panels = (list(found.found[:n]), list(found.singles))
    titles = (
        heading(f"Spans behind the {found.toward} answer", *_found_lines(found)),
        heading("Every word by itself", "in the order of the prompt"),
    )
    heights = [_ROW * max(len(some), 1) for some in panels]
    gaps = [LINE * len(titles[0]), LINE * (len(titles[1]) + 1)]
    fig = figure(_LEGEND + sum(heights) + sum(gaps) + AXIS)
    domains = stacked(heights, gaps)
    colours = (
        (CONTEXTUAL, ASSOCIATIVE) if found.toward == "contextual" else (ASSOCIATIVE, CONTEXTUAL)
    )
    for i, (some, title, domain) in enumerate(zip(panels, titles, domains, strict=True)):
        axis = "y" if i == 0 else "y2"
        add_heading(fig, title, domain[1], hover=_checks(found))
        for name in ("necessity", "kept"):
            fig.add_trace(_bars(some, name, colours, axis, legend=i == 0))
        fig.update_layout(
            {
                f"yaxis{axis[1:]}": {
                    "domain": domain,
                    "anchor": "x",
                    "tickvals": list(range(len(some))),
                    "ticktext": [label(_short(one)) for one in some],
                    "range": [max(len(some), 1) - 0.5, -0.5],
                    "showgrid": False,
                    "fixedrange": True,
                }
            }
        )
        for x, dash in ((0.0, "solid"), (found.y, "dot")):
            fig.add_shape(
                type="line", x0=x, x1=x, xref="x", y0=0, y1=1, yref=f"{axis} domain",
                line={"width": 1, "dash": dash, "color": OTHER},
            )  # fmt: skip
    every = [one for some in panels for one in some]
    fig.update_layout(
        barmode="group",
        xaxis={
            "anchor": "y2",
            "range": value_range(_ends(every), np.array([found.y]), pad=0.06),
            "title": {"text": f"logits toward the {found.toward} answer (dotted: LD)"},
            "showgrid": True,
            "fixedrange": True,
        },
    )
    return fig


def span_prompt(found: Spans, n: int = 3) -> PromptView:
    """The prompt with its best spans coloured in place, as HTML, and a legend with their numbers.

    Words of one span have one colour and one underline, wherever they stand; a word of two spans
    has those of the better one. The text is escaped, so that a prompt cannot add tags.
    """
    best = list(found.found[: min(n, len(_MARKS))])
    rank = {p: i for i, one in reversed(list(enumerate(best))) for p in one.positions}
    gap = separator(found.tokens)
    text = "".join(_token(token, gap, i, rank.get(i)) for i, token in enumerate(found.tokens))
    legend = "".join(f"<br>{_legend(i, one)}" for i, one in enumerate(best)) or (
        "<br>no word is both necessary and sufficient"
    )
    return PromptView(
        '<div class="dst-prompt"><p style="line-height:2;overflow-wrap:anywhere;margin:.4em 0">'
        f'{text}</p><p style="font-size:.85em;opacity:.85;line-height:1.9;margin:.4em 0">'
        f"Behind the {html.escape(found.toward)} answer (LD {number(found.contrast)}):{legend}"
        "</p></div>"
    )


# -- inside ------------------------------------------------------------------------------------


def _bars(
    some: Sequence[Span], name: str, colours: tuple[str, str], axis: str, *, legend: bool
) -> go.Bar:
    """One bar a span; what works against the answer has the other answer's colour."""
    values: list[Estimate] = [getattr(one, name) for one in some]
    mean = np.array([value.mean for value in values])
    return go.Bar(
        x=mean,
        y=list(range(len(some))),
        yaxis=axis,
        orientation="h",
        name="resampled: LD lost" if name == "necessity" else "only these kept: LD gained",
        legendgroup=name,
        showlegend=legend,
        marker={"color": [colours[int(value < 0)] for value in mean]}
        | ({"pattern": _HATCH} if name == "kept" else {}),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": np.array([value.high for value in values]) - mean,
            "arrayminus": mean - np.array([value.low for value in values]),
            "thickness": 1.2,
            "width": 3,
            "color": OTHER,
        },
        hovertext=[_hover(one) for one in some],
        hoverinfo="text",
    )


def _hover(one: Span) -> str:
    words = label(" … ".join(one.words))
    if one.reason and one.necessity.n == 0:
        return f"<b>{words}</b><br>" + "<br>".join(wrapped(one.reason))
    lines = [
        f"<b>{words}</b>",
        f"necessity {_range(one.necessity)} logits",
        f"kept {_range(one.kept)} logits",
        f"sufficiency {_range(one.sufficiency)}",
        f"lesser of the two {number(one.joint)}",
    ]
    if len(one.words) > 1:
        lines.append(f"beyond its words: necessity {number(one.necessity_together)}, "
                     f"kept {number(one.kept_together)}")  # fmt: skip
    if one.n_controls:
        lines.append(f"as good among {one.n_controls} random: {number(one.control)}")
    if not one.held_out:
        lines.append("on the search's own fills")
    return "<br>".join(lines)


def _range(value: Estimate) -> str:
    return f"{number(value.mean)} ({number(value.low)} to {number(value.high)})"


def _short(one: Span) -> str:
    """The words of a span on an axis; next to each other or not, they are told apart by dots."""
    text = " … ".join(visible(word) for word in one.words)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _ends(some: Sequence[Span]) -> np.ndarray:
    return np.array(
        [end for one in some for value in (one.necessity, one.kept)
         for end in (value.mean, value.low, value.high)]
    )  # fmt: skip


def _found_lines(found: Spans) -> tuple[str, ...]:
    if not found.found:
        return ("none: no word is both necessary and sufficient",)
    return ("the best first",) if found.complete else ("the best first; not complete",)


def _checks(found: Spans) -> str:
    """What the numbers rest on, for hovering over a heading."""
    texts = (
        f"fills: {', '.join(found.fills)}; {found.draws} per score, none of them in the search",
        f"{found.forward_passes} of {found.budget} forward passes",
        *(f"not tried: {one}" for one in found.left_out),
        *found.notes,
    )
    return "<br>".join(line for text in texts for line in wrapped(text))


def _token(token: str, gap: str, position: int, rank: int | None) -> str:
    body = token.lstrip(" ")
    lead = " " if gap and position else token[: len(token) - len(body)]
    text = html.escape(visible(body))
    if "\n" in body:  # shown, and also obeyed
        text = text.replace("\\n", "\\n<br>")
    if rank is None:
        return f"{lead}<span>{text}</span>"
    return f'{lead}<span data-span="{rank + 1}" style="{_style(rank)}">{text}</span>'


def _legend(rank: int, one: Span) -> str:
    words = html.escape(visible(" … ".join(one.words)))
    return (
        f'<span style="{_style(rank)}">{words}</span>: '
        f"necessity {html.escape(_range(one.necessity))}, kept {html.escape(_range(one.kept))}"
    )


def _style(rank: int) -> str:
    colour, line = _MARKS[rank]
    return (
        f"text-decoration:underline {line} {colour} 2px;text-underline-offset:.3em;"
        f"background:{colour}2E;border-radius:2px;font-weight:600"
    )
