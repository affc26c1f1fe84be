"""How early can an error be foreseen? Every score's AUROC inside models, state by state.

    python -m experiments.predict_early

Read at a share of depth before the answer is formed, beside the maximum probability, which is known
only at the end. A score predicts early if it beats that on the same runs while the answer's own
margin is still undecided; what has arrived by then is printed beside it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.analysis.bootstrap import Resampling
from dst.analysis.within import within_groups
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL
from experiments.items import Items, asked, records, told
from experiments.tables import markdown, plain, write

DEPTHS = tuple(i / 8 for i in range(9))
SCORES = (
    "separation", "separation_projected", "separation_neutral", "dss_causal", "margin_causal",
    "cas_signed", "margin_tuned", "margin", "dss_published", "cas_published",
)  # fmt: skip


def arrived(items: Items, flow: str, depth: float) -> float:
    """Share of the runs in which a flow is at the answer by a depth, of those where it comes."""
    state = items.column(f"arrival ({flow} flow at answer)")
    share = state / items.column("n_layers")
    return float((share[~np.isnan(share)] <= depth).mean())


def curve(items: Items, score: str, resampling: Resampling) -> list[dict[str, Any]]:
    """Per depth the AUROC inside models and what it adds to the maximum probability."""
    found = []
    for depth in DEPTHS:
        warning = -items.column(f"{score}@{depth:g}")
        how: dict[str, Any] = {"clusters": items.word, "resampling": resampling}
        found.append(
            {
                "depth": depth,
                "auroc": within_groups(warning, items.error, items.model, **how),
                "over confidence": within_groups(
                    warning, items.error, items.model, beside=-items.confidence, **how
                ),
            }
        )
    return found


def figure(curves: dict[str, list[dict[str, Any]]], confidence: float) -> go.Figure:
    """AUROC over depth, one line a score."""
    drawn = go.Figure()
    for name, found in curves.items():
        drawn.add_scatter(
            x=[one["depth"] for one in found],
            y=[one["auroc"].value for one in found],
            name=name,
            mode="lines+markers",
        )
    drawn.add_hline(y=confidence, line={"dash": "dot", "color": ASSOCIATIVE})
    drawn.add_annotation(
        x=0, y=confidence, text="maximum probability, at the end", showarrow=False,
        xanchor="left", yanchor="bottom",
    )  # fmt: skip
    drawn.add_hline(y=0.5, line={"dash": "dash", "color": CONTEXTUAL})
    drawn.update_layout(
        title="Errors foreseen inside models, by depth",
        xaxis_title="depth (state / layers)",
        yaxis_title="AUROC, mean over models",
    )
    return drawn


def main() -> int:
    """The command line."""
    out, items, resampling = asked(__doc__)
    confidence = within_groups(
        -items.confidence, items.error, items.model, clusters=items.word, resampling=resampling
    )
    curves = {score: curve(items, score, resampling) for score in SCORES}
    header = ["score", *(f"{depth:.0%}" for depth in DEPTHS)]
    here = [[name, *(plain(one["auroc"].value) for one in found)] for name, found in curves.items()]
    gain = [
        [name, *(told(one["over confidence"]) for one in found)] for name, found in curves.items()
    ]
    come = [
        [f"{flow} flow", *(plain(arrived(items, flow, depth)) for depth in DEPTHS)]
        for flow in ("contextual", "associative")
    ]
    text = "\n".join(
        [
            "# How early an error can be foreseen\n",
            f"{len(items)} cases in {len(items.tables)} models. The maximum probability of the "
            f"output has an AUROC of {told(confidence)} inside models.\n",
            "## AUROC inside models, by depth\n",
            markdown(header, here),
            "## More than the maximum probability, on the same runs\n",
            markdown(header, gain),
            "## Share of runs in which a flow is at the answer by then\n",
            markdown(["", *header[1:]], come),
        ]
    )
    values = {
        "maximum probability": confidence.to_records()[0],
        "curves": {
            name: [
                {"depth": one["depth"], "auroc": one["auroc"].to_records()[0],
                 "over confidence": one["over confidence"].to_records()[0]}
                for one in found
            ]
            for name, found in curves.items()
        },
    }  # fmt: skip
    write(
        out, "predict_early", text=text, figure=figure(curves, confidence.value),
        values=values, rows=records(items), command="python -m experiments.predict_early",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
