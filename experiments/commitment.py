"""Where a hallucination is committed, what repairs it, and how it fails, by the kind of case.

    python -m experiments.commitment

Per kind: the share of hallucinations that each repair brings back at some state (a repair works
only where the same repair of a neutral run does not), where the commitment sits, and the failure
mode that the rules name, beside the cause that the world has planted in the story. Every rule's
rate on correct runs is its false alarm.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.analysis.commitment import REPAIRS, breaks
from dst.analysis.failures import MODES
from experiments.tables import markdown, plain, rows_asked, share, write
from experiments.two_pathways import grouped

Row = Mapping[str, Any]


def repaired(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """How many of the runs that a repair exists for it turns, and from which depth on none."""
    reasons = [row[f"commitment (causal, {name}).reason"] or "" for row in rows]
    asked = [
        row
        for row, reason in zip(rows, reasons, strict=True)
        if not reason.startswith(("nothing to", "no "))
    ]
    depths = [
        row[f"commitment (causal, {name})"] / row["n_layers"]
        for row in asked
        if row[f"commitment (causal, {name})"] is not None
    ]
    return {
        "asked": len(asked),
        "works": len(depths),
        "median_depth": float(np.median(depths)) if depths else float("nan"),
        "depths": depths,
    }


def repair_table(rows: Sequence[Row]) -> str:
    """Per kind: share of hallucinations repaired, and the median commitment, by repair."""
    names = [name for name in REPAIRS if not breaks(name)]
    lines = []
    for kind, mine in [*grouped(rows, "kind").items(), ("all", rows)]:
        failed = [row for row in mine if row["outcome"] == "hallucination"]
        cells: list[Any] = [kind, len(mine), len(failed)]
        for name in names:
            found = repaired(failed, name)
            cells += [share(found["works"], found["asked"]), plain(found["median_depth"])]
        right = [row for row in mine if row["outcome"] == "correct"]
        broken = repaired(right, "remove cue")
        lines.append([*cells, share(broken["works"], broken["asked"])])
    header = ["kind", "runs", "hallucinations"]
    for name in names:
        header += [f"{name} works", "commitment (depth)"]
    return markdown([*header, "remove cue breaks a correct run"], lines)


def mode_table(rows: Sequence[Row], field: str) -> str:
    """Kind x mode, as counts."""
    lines = []
    for kind, mine in grouped(rows, "kind").items():
        count = Counter(row[field] for row in mine)
        lines.append([kind, len(mine), *(count[mode] for mode in MODES)])
    total = Counter(row[field] for row in rows)
    lines.append(["all", len(rows), *(total[mode] for mode in MODES)])
    return markdown(["kind", "runs", *MODES], lines)


def figure(rows: Sequence[Row]) -> go.Figure:
    """Commitment by depth, one trace a repair."""
    drawn = go.Figure()
    failed = [row for row in rows if row["outcome"] == "hallucination"]
    for name in REPAIRS:
        if not breaks(name):
            drawn.add_histogram(x=repaired(failed, name)["depths"], name=name, nbinsx=20)
    drawn.update_layout(
        title="Commitment: after this depth the repair no longer works",
        xaxis_title="depth (state / layers)",
        yaxis_title="hallucinations",
        barmode="group",
    )
    return drawn


def main() -> int:
    """The command line."""
    out, rows = rows_asked(__doc__)
    failed = [row for row in rows if row["outcome"] == "hallucination"]
    right = [row for row in rows if row["outcome"] == "correct"]
    text = "\n".join(
        [
            "# Where a hallucination is committed, and how it fails\n",
            "## Repairs and commitment\n",
            repair_table(rows),
            "## Failure modes of hallucinations\n",
            mode_table(failed, "failure_mode"),
            "## The same rules on correct runs (false alarms)\n",
            mode_table(right, "failure_rule"),
        ]
    )
    values = {
        "repairs": {
            kind: {name: repaired([r for r in mine if r["outcome"] == "hallucination"], name)
                   for name in REPAIRS if not breaks(name)}
            for kind, mine in grouped(rows, "kind").items()
        },
        "modes": {
            kind: dict(Counter(row["failure_mode"] for row in mine))
            for kind, mine in grouped(failed, "kind").items()
        },
        "rules_on_correct": dict(Counter(row["failure_rule"] for row in right)),
    }  # fmt: skip
    write(
        out, "commitment", text=text, figure=figure(rows), values=values, rows=rows,
        command="python -m experiments.commitment",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
