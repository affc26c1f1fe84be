"""When the association and when the context arrive: the paper's fast and slow pathway, tested.

    python -m experiments.two_pathways

Per checkpoint, kind and outcome: the state at which each flow is at the answer position, as a
share of depth; how often the association is there first; the mean of the paired difference with
its cluster bootstrap interval (words are drawn together). Runs in which a flow is under its floor
have no arrival: they are counted, not filled in.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.analysis.effects import mean_effect
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL
from experiments.tables import markdown, plain, rows_asked, share, write

FLOWS = ("associative", "contextual")


def arrival(row: Mapping[str, Any], flow: str) -> float:
    """Arrival at the answer as a share of depth, NaN where the flow never arrives."""
    state = row[f"arrival ({flow} flow at answer)"]
    return math.nan if state is None else state / row["n_layers"]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the two flows arrive in a group of runs."""
    at = {flow: np.array([arrival(row, flow) for row in rows]) for flow in FLOWS}
    both = ~np.isnan(at["associative"]) & ~np.isnan(at["contextual"])
    later = (at["contextual"] - at["associative"])[both]
    words = [row["group"] for row, kept in zip(rows, both, strict=True) if kept]
    effect = mean_effect(later, clusters=words) if len(later) else None
    return {
        "n": len(rows),
        "associative_arrives": int((~np.isnan(at["associative"])).sum()),
        "contextual_arrives": int((~np.isnan(at["contextual"])).sum()),
        "associative_depth": _median(at["associative"]),
        "contextual_depth": _median(at["contextual"]),
        "both": int(both.sum()),
        "association_first": int((later > 0).sum()),
        "at_once": int((later == 0).sum()),
        "context_first": int((later < 0).sum()),
        "lag": effect.value if effect else math.nan,
        "lag_low": effect.interval.low if effect else math.nan,
        "lag_high": effect.interval.high if effect else math.nan,
        "lag_p": effect.p if effect else math.nan,
    }


def _median(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else math.nan


def table(title: str, groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One line per group."""
    lines = []
    for name, rows in groups.items():
        found = summary(rows)
        lag = plain(found["lag"])
        if not math.isnan(found["lag_low"]):
            lag += f" ({found['lag_low']:.2f} to {found['lag_high']:.2f})"
        lines.append(
            [
                name,
                found["n"],
                f"{found['associative_arrives']}, {plain(found['associative_depth'])}",
                f"{found['contextual_arrives']}, {plain(found['contextual_depth'])}",
                share(found["association_first"], found["both"]),
                found["context_first"],
                lag,
            ]
        )
    header = (
        title, "runs", "association arrives, median depth", "context arrives, median depth",
        "association first", "context first", "context later by (share of depth)",
    )  # fmt: skip
    return markdown(header, lines)


def grouped(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by one of their fields, in order of appearance."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(row)
    return groups


def figure(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Mean insertion at the answer over depth, both flows, one panel a checkpoint."""
    drawn = go.Figure()
    colours = {"associative": ASSOCIATIVE, "contextual": CONTEXTUAL}
    groups = grouped(rows, "checkpoint")
    for number, some in enumerate(groups.values()):
        for flow in FLOWS:
            curves = np.array([row[f"{flow}_insertion"] for row in some])
            drawn.add_scatter(
                x=np.arange(curves.shape[1]) / (curves.shape[1] - 1),
                y=curves.mean(axis=0),
                name=f"{flow} flow",
                line={"color": colours[flow]},
                visible=number == len(groups) - 1,
            )
    steps = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [i // 2 == number for i in range(2 * len(groups))]},
                {"title": f"What has arrived at the answer: {name}"},
            ],
        }
        for number, name in enumerate(groups)
    ]
    drawn.update_layout(
        title=f"What has arrived at the answer: {list(groups)[-1]}",
        xaxis_title="depth (state / layers)",
        yaxis_title="insertion effect on LD (logits), mean over cases",
        sliders=[{"steps": steps, "active": len(steps) - 1}],
    )
    return drawn


def main() -> int:
    """The command line."""
    out, rows = rows_asked(__doc__)
    by = {key: grouped(rows, key) for key in ("checkpoint", "kind", "outcome")}
    by["checkpoint and outcome"] = {
        f"{name}, {outcome}": some
        for name, mine in by["checkpoint"].items()
        for outcome, some in grouped(mine, "outcome").items()
    }
    text = "# When the two pathways arrive\n\n" + "\n".join(
        table(title, groups) for title, groups in by.items()
    )
    values = {
        title: {name: summary(some) for name, some in groups.items()}
        for title, groups in by.items()
    }
    write(
        out, "two_pathways", text=text, figure=figure(rows), values=values, rows=rows,
        command="python -m experiments.two_pathways",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
