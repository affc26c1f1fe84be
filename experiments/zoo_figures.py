"""The figures of docs/testbed.md: errors over training by kind and word, and the two flows.

    python -m experiments.zoo_figures --out docs/assets

The first two come from the zoo's cards alone; the third needs the studies of `zoo_study`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dst.core.errors import DSTError
from dst.core.files import write_text_atomic
from dst.testbed import zoo
from experiments.svg import lines, squares
from experiments.two_pathways import FLOWS
from experiments.zoo_study import OUT, rows

STAGES = {"before": "l4-w96-s0-0160", "during": "l4-w96-s0-0520", "after": "l4-w96-s0-1000"}
"""Checkpoints of one run, around the steps at which stories begin to be read by their context."""


def errors_by_kind() -> str:
    """Hallucinations over training, one panel a run, one curve a kind."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for entry in zoo.manifest()["checkpoints"].values():
        curves = panels.setdefault(entry["run"], {})
        for row in entry["errors"]["minority"]:
            if not row.get("gold"):
                curves.setdefault(row["kind"], []).append((entry["step"], row["hallucination"]))
    return lines(
        panels, x="step of training", y="share of hallucinations, minority sense", low=0, high=1
    )


def errors_by_word(run: str = "l4-w96-s0") -> str:
    """Hallucinations per word over one run."""
    listed = {
        name: entry for name, entry in zoo.manifest()["checkpoints"].items() if entry["run"] == run
    }
    tables = [zoo.card(name)["error_table"]["words"]["minority"] for name in listed]
    words = sorted({word for table in tables for word in table})
    values = {word: [_share(table.get(word)) for table in tables] for word in words}
    steps = [str(entry["step"]) for entry in listed.values()]
    return squares(values, steps, title=f"share of hallucinations by word and step, {run}")


def _share(row: Mapping[str, Any] | None) -> float:
    return row["associative"] / row["n"] if row and row["n"] else math.nan


def flows(rows: Sequence[Mapping[str, Any]]) -> str:
    """What has arrived at the answer by each state: before, during and after."""
    panels = {}
    for stage, name in STAGES.items():
        mine = [row for row in rows if row["checkpoint"] == name]
        panels[f"{stage} ({name.rsplit('-', 1)[1].lstrip('0')} steps)"] = {
            flow: list(enumerate(_mean(mine, f"{flow}_insertion"))) for flow in reversed(FLOWS)
        }
    values = [y for curves in panels.values() for curve in curves.values() for _, y in curve]
    bound = math.ceil(max(abs(y) for y in values))
    return lines(
        panels, x="state (0 = embedding)", y="arrived at the answer, logits of LD, mean over cases",
        low=-bound, high=bound,
    )  # fmt: skip


def _mean(rows: Sequence[Mapping[str, Any]], field: str) -> list[float]:
    return [float(value) for value in np.mean([row[field] for row in rows], axis=0)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--zoo", type=Path, default=OUT)
    parser.add_argument("--out", type=Path, default=Path("docs/assets"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(given.out / "zoo_errors.svg", errors_by_kind())
    write_text_atomic(given.out / "zoo_words.svg", errors_by_word())
    try:
        measured = rows(given.zoo)
    except DSTError as error:
        print(error, file=sys.stderr)
        return 2
    write_text_atomic(given.out / "zoo_flows.svg", flows(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
