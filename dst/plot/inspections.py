"""What states say when they are inspected: generated words as a table, agreement as curves."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from dst.core.patchscope_results import Patchscope, PatchscopeAgreement
from dst.plot.palette import CONTEXTUAL, OTHER
from dst.plot.panels import LINE, add_heading, heading, stacked, value_axis, wrapped
from dst.plot.text import label, number, probability, short, state_name, visible
from dst.plot.theme import AXIS, figure, marker_size, state_axis, value_range

_ROW, _LETTERS, _LEAST = 28, 40, 5
"""Pixels of a row; letters that all columns share, and the fewest of one."""

_PANEL = 170


def patchscope(scope: Patchscope) -> go.Figure:
    """What the inspection prompt says for every state and position, as a table.

    A row is a state, from the embedding down; a column a token of the source. The colour is the
    probability of the first word. ``●`` marks text with a token that neither control says: only
    that says something of the source. The last column is a control, a state of another prompt;
    the other control, the prompt without a patch, is in the heading.
    """
    n_states, n_pos = scope.ids.shape[:2]
    n_columns = n_pos + bool(scope.other_source)
    most = max(_LEAST, _LETTERS // n_columns)
    table = np.full((n_states, n_columns), np.nan)
    table[:, :n_pos] = scope.first_prob
    if scope.other_source:
        table[:, n_pos] = np.exp(scope.other_log_prob[:, 0])
    replaced = visible(scope.target_tokens[scope.target_position])
    lines = heading(
        "Patchscope",
        f"into “{visible(scope.target_prompt)}” at “{replaced}”",
        f"without a patch it says: {visible(scope.plain_words) or '(nothing)'}",
        "● says what neither control says",
        *([f"control: a state of “{visible(scope.other_source)}”"] if scope.other_source else []),
    )
    rows = _ROW * n_states
    fig = figure(LINE * len(lines) + rows + AXIS)
    (domain,) = stacked([rows], [LINE * len(lines)])
    add_heading(fig, lines, domain[1])
    columns = range(n_columns)
    fig.add_trace(
        go.Heatmap(
            z=table,
            x=list(columns),
            y=list(range(n_states)),
            name="words",
            text=[[_cell(scope, s, j, most) for j in columns] for s in range(n_states)],
            texttemplate="%{text}",
            textfont={"size": 12},
            xgap=2,
            ygap=2,
            hovertext=[[_hover(scope, s, j) for j in columns] for s in range(n_states)],
            hoverinfo="text",
            hoverongaps=True,
            coloraxis="coloraxis",
        )
    )
    names = [label(short(token)) for token in scope.tokens] + ["other prompt"] * bool(
        scope.other_source
    )
    fig.update_layout(
        coloraxis={
            "cmin": 0,
            "cmax": 1,
            "colorbar": {
                "title": {"text": "p", "side": "top"},
                "tickvals": [0, 0.5, 1],
                "y": 0,
                "yanchor": "bottom",
                "len": domain[1],
            },
        },
        xaxis={"tickvals": list(columns), "ticktext": names, "fixedrange": True},
        yaxis={
            "domain": domain,
            "range": [n_states - 0.5, -0.5],
            "tickvals": list(range(n_states)),
            "ticktext": [_state_name(scope, s) for s in range(n_states)],
            "title": {"text": "state"},
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    return fig


def _texts(scope: Patchscope, s: int, j: int) -> tuple[str, bool]:
    """What a cell says, and whether any of it is claimed; the control's is not."""
    if j == len(scope.positions):
        return scope.other_words[s], False
    return scope.words[s][j], bool(scope.claimed[s, j].any())


def _cell(scope: Patchscope, s: int, j: int, most: int) -> str:
    said, claimed = _texts(scope, s, j)
    return ("● " if claimed else "") + label(short(said, most))


def _hover(scope: Patchscope, s: int, j: int) -> str:
    said, claimed = _texts(scope, s, j)
    lines = wrapped(f"says: {visible(said) or '(nothing)'}")
    state = state_name(int(scope.states[s]))
    if j == len(scope.positions):
        return "<br>".join([f"<b>control</b>, {state} of another prompt", *lines])
    place = f"<b>{label(short(scope.tokens[j], 24))}</b> (position {scope.positions[j]}), {state}"
    into = f"put in at {state_name(int(scope.target_states[s]))} of the inspection prompt"
    lines = [place, into, *lines]
    if not np.isnan(scope.first_prob[s, j]):
        p, lift = float(scope.first_prob[s, j]), float(scope.lift[s, j])
        lines.append(f"p of the first token {probability(p)}, {number(lift)} nats by the patch")
    n = int(scope.claimed[s, j].sum())
    lines.append(f"{n} tokens in neither control" if claimed else "nothing beyond the controls")
    norm = number(float(scope.delta_norm[s, j]))
    lines.append(f"{int(scope.fired[s, j])} places changed, each by a norm of {norm}")
    return "<br>".join(lines)


def _state_name(scope: Patchscope, s: int) -> str:
    here, there = int(scope.states[s]), int(scope.target_states[s])
    name = "emb" if here == 0 else str(here)
    return name if here == there else f"{name} → {'emb' if there == 0 else there}"


def patchscope_agreement(agreement: PatchscopeAgreement) -> go.Figure:
    """How often, and how surely, an inspected state says the model's own next token.

    Above, precision@1 with its 95 % interval; below, surprisal in nats, mean over texts. Beside
    both the logit lens (dashed, open) and the unpatched inspection prompt (the line of chance).
    """
    titles = [
        heading(
            "Precision@1",
            f"share of {len(agreement.texts)} texts whose next token it says",
            "● patchscope, ○ logit lens, dotted: without a patch",
        ),
        heading("Surprisal of that token", "mean over texts"),
    ]
    heights, gaps = [_PANEL, _PANEL], [LINE * len(title) + 10 for title in titles]
    fig = figure(sum(heights) + sum(gaps) + AXIS)
    domains = stacked(heights, gaps)
    for title, (_, top) in zip(titles, domains, strict=True):
        add_heading(fig, title, top)
    curves = (
        ("precision", "y", agreement.precision, agreement.lens_agrees.mean(axis=0)),
        (
            "surprisal",
            "y2",
            agreement.surprisal.mean(axis=0),
            agreement.lens_surprisal.mean(axis=0),
        ),
    )
    chance = (float(agreement.plain_agrees.mean()), float(agreement.plain_surprisal.mean()))
    for (what, axis, patched, lens), plain in zip(curves, chance, strict=True):
        ends = (agreement.precision_low, agreement.precision_high) if axis == "y" else None
        _add_curve(fig, agreement, (f"{what}, patchscope", axis, "circle"), patched, ends)
        _add_curve(fig, agreement, (f"{what}, logit lens", axis, "circle-open"), lens)
        fig.add_shape(
            type="line", xref="x domain", yref=axis, x0=0, x1=1, y0=plain, y1=plain,
            name=f"{what} without a patch", line={"color": OTHER, "width": 1, "dash": "dot"},
        )  # fmt: skip
    spans = [[-0.05, 1.05], value_range(curves[1][2], curves[1][3], np.array([chance[1]]))]
    states = int(agreement.states.max()) + 1
    fig.update_layout(
        xaxis=state_axis(max(states, 2)) | {"anchor": "y2"},
        yaxis=value_axis(domains[0], spans[0], "share"),
        yaxis2=value_axis(domains[1], spans[1], "nats"),
        showlegend=False,
    )
    return fig


def _add_curve(
    fig: go.Figure,
    agreement: PatchscopeAgreement,
    named: tuple[str, str, str],
    values: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    name, axis, symbol = named
    lens = symbol.endswith("open")
    colour = OTHER if lens else CONTEXTUAL
    bars = ends and {
        "type": "data",
        "array": ends[1] - values,
        "arrayminus": values - ends[0],
        "width": 3,
        "thickness": 1,
    }
    states = agreement.states.tolist()
    fig.add_trace(
        go.Scatter(
            x=states,
            y=values,
            yaxis=axis,
            name=name,
            mode="lines+markers",
            error_y=bars or None,
            line={"color": colour, "width": 2, "dash": "dash" if lens else "solid"},
            marker={"color": colour, "symbol": symbol, "size": marker_size(len(states))},
            hovertext=[
                f"<b>{label(name)}</b><br>{state_name(state)}<br>{number(float(value), 3)}"
                for state, value in zip(states, values, strict=True)
            ],
            hoverinfo="text",
        )
    )
