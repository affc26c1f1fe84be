"""Two runs in one figure: the terms of LD, the two flows at the answer, and DSS* over depth."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from dst.core.comparison_results import Comparison, Difference
from dst.core.results import Report
from dst.plot.palette import OTHER, side_colour
from dst.plot.panels import LINE, add_heading, heading, stacked, value_axis
from dst.plot.role_map import Flow, flow_value, flows_of
from dst.plot.text import label, number, short, state_name
from dst.plot.theme import AXIS, figure, value_range

_TERM, _PANEL, _LEGEND, _GAP = 46, 200, 40, 20

_STYLES = (("solid", "", -0.14), ("dot", "-open", 0.14))
"""Of A and of B: dash, symbol's ending, and place within a row."""

_SHORT = {"prior of the subject": "prior", "effect of the context": "context"}


def comparison(found: Comparison) -> go.Figure:
    """What differs between two runs, in logits and as a share of the evidence.

    Above: LD and its three terms with their 95 % intervals over draws, A filled and B open below
    it; a star after a term's name says that the draws tell the two apart. Below: what each flow
    has brought to the answer position over depth, and DSS* over depth, A solid and B dotted.
    States are shares of depth, so that models of different depth stand over one another. Panels
    whose quantity neither run has are left out.
    """
    terms = [one for one in found.differences if one.group == "sum" and not math.isnan(one.value)]
    runs = (found.a, found.b)
    measured = any(run.pathways is not None for run in runs)
    titles = [heading("LD and its terms (logits)", "toward A− | toward A+; ★ told apart")]
    heights = [_TERM * len(terms)]
    gaps = [LINE * len(titles[0])]
    if measured:
        titles += [
            heading("Brought to the answer by each flow", "circles: context; diamonds: subject"),
            heading("DSS*: the context’s share"),
        ]
        heights += [_PANEL, _PANEL]
        gaps += [AXIS + LINE * len(titles[1]), _GAP + LINE * len(titles[2])]
    fig = figure(_LEGEND + sum(heights) + sum(gaps) + AXIS)
    domains = stacked(heights, gaps)
    for title, domain in zip(titles, domains, strict=True):
        add_heading(fig, title, domain[1])
    _add_terms(fig, terms, found.names, domains[0])
    if measured:
        _add_flows(fig, runs, found.names, domains[1])
        _add_score(fig, runs, found.names, domains[2])
        fig.update_layout(xaxis2=_depth_axis())
    return fig


def _add_terms(
    fig: go.Figure,
    terms: list[Difference],
    names: tuple[str, str],
    domain: tuple[float, float],
) -> None:
    ends = []
    for side, (dash, open_, shift) in enumerate(_STYLES):
        fig.add_trace(  # its place in the legend, in no side's colour
            go.Scatter(
                x=[None],
                y=[None],
                mode="lines+markers",
                name=label(short(names[side], 20)),
                line={"color": OTHER, "width": 2, "dash": dash},
                marker={"symbol": f"circle{open_}", "size": 9, "color": OTHER},
                hoverinfo="skip",
            )
        )
        values = [(t.b, t.b_low, t.b_high) if side else (t.a, t.a_low, t.a_high) for t in terms]
        ends += [end for value in values for end in value]
        spreads = [(place + shift, low, high) for place, (_, low, high) in enumerate(values)]
        drawn = [(y, low, high) for y, low, high in spreads if low < high]
        fig.add_trace(
            go.Scatter(
                x=[x for _, low, high in drawn for x in (low, high, None)],
                y=[place for y, _, _ in drawn for place in (y, y, None)],
                mode="lines",
                name=f"{label(names[side])}, intervals",
                line={"color": OTHER, "width": 2},
                hoverinfo="skip",
                showlegend=False,
            )
        )
        fig.add_trace(
            go.Scatter(
                x=[value for value, _, _ in values],
                y=[place + shift for place in range(len(terms))],
                mode="markers",
                name=label(names[side]),
                showlegend=False,
                marker={
                    "symbol": [("diamond" if v < 0 else "circle") + open_ for v, _, _ in values],
                    "size": 10,
                    "color": [side_colour(value) for value, _, _ in values],
                    "line": {"width": 2 if open_ else 0},
                },
                hovertext=[
                    _term_hover(term, names[side], *value)
                    for term, value in zip(terms, values, strict=True)
                ],
                hoverinfo="text",
            )
        )
    fig.update_layout(
        xaxis={
            "anchor": "y",
            "zeroline": True,
            "showgrid": True,
            "fixedrange": True,
            "range": value_range(np.array(ends, dtype=float), pad=0.08),
        },
        yaxis={
            "domain": domain,
            "anchor": "x",
            "tickvals": list(range(len(terms))),
            "ticktext": [_SHORT.get(t.name, t.name) + _star(t) for t in terms],
            "range": [max(len(terms), 1) - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )


def _star(term: Difference) -> str:
    return " ★" if term.told_apart and term.method != "exact" else ""


def _term_hover(term: Difference, name: str, value: float, low: float, high: float) -> str:
    lines = [f"<b>{label(name)}: {label(term.name)}</b>", f"{number(value)} logits"]
    if not math.isnan(low) and low < high:
        lines.append(f"95 % interval {number(low)} to {number(high)}")
    lines.append(f"A − B {number(term.value)}")
    if not math.isnan(term.low) and term.low < term.high:
        lines[-1] += f" ({number(term.low)} to {number(term.high)})"
    return "<br>".join(lines)


def _add_flows(
    fig: go.Figure,
    runs: tuple[Report, Report],
    names: tuple[str, str],
    domain: tuple[float, float],
) -> None:
    curves = []
    for run, name, (dash, open_, _) in zip(runs, names, _STYLES, strict=True):
        for flow in flows_of(run.pathways) if run.pathways is not None else ():
            mean = flow.at_answer.mean(axis=0)
            curves.append(mean)
            fig.add_trace(
                _curve(
                    mean,
                    f"{name}: {flow.name}",
                    [_flow_hover(flow, name, state) for state in range(len(mean))],
                    {"color": flow.colour, "dash": dash},
                    flow.symbol + open_,
                    "y2",
                )
            )
    fig.update_layout(
        yaxis2=value_axis(domain, value_range(*curves), "insertion at i* (logits)", "x2")
    )


def _flow_hover(flow: Flow, name: str, state: int) -> str:
    return (
        f"<b>{label(name)}: {flow.name} flow, {state_name(state)}</b>"
        f"<br>at the answer {flow_value(flow.at_answer[:, state])}"
    )


def _add_score(
    fig: go.Figure,
    runs: tuple[Report, Report],
    names: tuple[str, str],
    domain: tuple[float, float],
) -> None:
    for run, name, (dash, open_, _) in zip(runs, names, _STYLES, strict=True):
        if "dss_causal" not in run.coherence.names:
            continue
        score = run.coherence["dss_causal"]
        hover = [
            f"<b>{label(name)}: DSS*, {state_name(state)}</b><br>"
            + (label(score.reasons[state]) or number(float(value)))
            for state, value in enumerate(score.value)
        ]
        line = {"color": OTHER, "dash": dash}
        fig.add_trace(_curve(score.value, f"{name}: DSS*", hover, line, f"square{open_}", "y3"))
    fig.update_layout(
        yaxis3=value_axis(domain, [-0.08, 1.08], "share of the context", "x2")
        | {"zeroline": False, "tickvals": [0, 0.5, 1]}
    )


def _curve(
    values: np.ndarray,
    name: str,
    hover: list[str],
    line: dict[str, str],
    symbol: str,
    axis: str,
) -> go.Scatter:
    """A curve over the share of depth; a gap where a value is undefined."""
    return go.Scatter(
        x=np.linspace(0, 1, len(values)),
        y=values,
        xaxis="x2",
        yaxis=axis,
        mode="lines+markers",
        connectgaps=False,
        name=label(name),
        line=line | {"width": 2},
        marker={
            "symbol": symbol,
            "size": 9 if len(values) <= 16 else 6,
            "color": line["color"],
            "line": {"width": 2 if symbol.endswith("-open") else 0},
        },
        hovertext=hover,
        hoverinfo="text",
        showlegend=False,
    )


def _depth_axis() -> dict[str, object]:
    return {
        "anchor": "y3",
        "title": {"text": "share of depth"},
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "ticktext": ["emb", "25 %", "50 %", "75 %", "100 %"],
        "range": [-0.03, 1.03],
        "fixedrange": True,
        "showgrid": False,
        "zeroline": False,
    }
