"""How stable semantic maps are: Jaccard of their top edges over five paraphrases of a prompt.

    python -m experiments.map_stability --out experiments/out

For the default model, four kinds of edges of the same cases: ours that are kept (q < .05), ours
by size alone, the published Omega edges, and the position effects that are kept. Each map gives
its 20 largest edges. Stability is the mean over all pairs among a prompt and its five paraphrases.
Two controls: the prompt with the cue of the other sense (the same words, another meaning), and
another case. Means over cases with the cluster bootstrap interval (words are drawn together);
p of stability = control by sign-flips of words. A pair without an edge on either side is undefined
and left out; the table says how many cases are left.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

import dst
from dst.analysis.effects import mean_effect
from dst.analysis.semantic_map import jaccard, top_edges
from dst.core.case import Case
from dst.core.errors import CaseError, DSTError, InputError
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL, OTHER
from dst.studies.semantic_map import semantic_map
from dst.testbed import world
from dst.tracing.position_effects import position_effects
from dst.tracing.progress import progress
from dst.tracing.published_map import published_map
from experiments.tables import markdown, plain, write

TOP = 20
"""Edges of each map."""

MAPS = ("ours, q < .05", "ours, largest", "published", "positions, q < .05")
CONTROLS = ("other sense", "another case")

Edges = Mapping[str, frozenset[Hashable]]


# -- cases ------------------------------------------------------------------------------------


def substitutions(told: str, other: str) -> dict[str, str]:
    """Words of one text and what stands for them in another of as many words; {} if it has not.

    A word that has two counterparts, itself or another, is left out.
    """
    ours, theirs = re.findall(r"\w+", told), re.findall(r"\w+", other)
    if len(ours) != len(theirs):
        return {}
    pairs = set(zip(ours, theirs, strict=True))
    words = [a for a, _ in pairs]
    return {a: b for a, b in pairs if a != b and words.count(a) == 1}


def put(text: str, words: Mapping[str, str]) -> str:
    """A text with whole words replaced."""
    return re.sub(r"\w+", lambda match: words.get(match[0], match[0]), text)


def retold(case: Case, prompt: str, own: Mapping[str, str]) -> Case:
    """The case with another wording of its prompt, the cue and the neutral draws put into it.

    Args:
        case: The case.
        prompt: The other wording.
        own: Words of the case that are others in this wording: those of the cue, for a swap.

    Raises:
        CaseError: The cue does not stand in this wording, or no neutral draw can be made of it.
    """
    neutral = []
    for draw in case.neutral:
        words = substitutions(case.text, str(draw))
        text = put(prompt, {own.get(old, old): new for old, new in words.items()})
        if words and text != prompt:
            neutral.append(text)
    if not neutral:
        raise CaseError("No neutral draw fits this wording", field="neutral")
    return case.replace(
        prompt=prompt,
        cue=tuple(put(span, own) for span in case.cue),
        neutral=tuple(neutral),
        swap=(), substitute=(), clean=(), paraphrases=(), distractor=(),
        question=None, twin_question=None,
    )  # fmt: skip


# -- edges ------------------------------------------------------------------------------------


def edges_of(model: Any, case: Case, seed: int) -> Edges:
    """The top edges of one prompt, by kind of map; an edge is told by its words and state."""
    ours = semantic_map(model, case, seed=seed, show=False)
    tested = sorted(ours.edges(ours.tested), key=lambda edge: -abs(edge["effect"]))[:TOP]
    theirs = sorted(published_map(model, case).edges, key=lambda edge: -abs(edge["omega"]))[:TOP]
    places = position_effects(model, case, seed=seed, show_progress=False).edges()[:TOP]
    return {
        "ours, q < .05": top_edges(ours, TOP),
        "ours, largest": frozenset(
            (e["source"], e["target"], e["state"], e["hop"]) for e in tested
        ),
        "published": frozenset((e["source"], e["target"], e["state"]) for e in theirs),
        # Positions move with the wording: a place is told by its role and its token.
        "positions, q < .05": frozenset(
            (e["role"], e["token"], e["word"], e["state"]) for e in places
        ),
    }


def mean_over(pairs: Sequence[tuple[Edges, Edges]], kind: str) -> float:
    """Mean Jaccard over pairs of maps; NaN where no pair has an edge."""
    values = [float(jaccard([a[kind], b[kind]])[0, 1]) for a, b in pairs]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def measured(
    model: Any, cases: Sequence[Case], seed: int, tick: Callable[[int], None]
) -> tuple[list[dict[str, Any]], int]:
    """One row per case, and how many cases could not be told otherwise."""
    told, left_out = [], 0
    for case in cases:
        try:
            wordings = [case.text, *map(str, case.paraphrases)]
            prompts = [retold(case, text, {}) for text in wordings]
            swapped = substitutions(case.text, str(case.swap[0])) if case.swap else {}
            other = retold(case, str(case.swap[0]), swapped) if swapped else None
        except CaseError:
            left_out += 1
            continue
        maps = [edges_of(model, prompt, seed) for prompt in prompts]
        told.append((case, maps, edges_of(model, other, seed) if other else None))
        tick(1)
    rows = []
    for i, (case, maps, other_sense) in enumerate(told):
        further = (told[(i + k) % len(told)] for k in range(1, len(told)))
        another = next((m for c, m, _ in further if c.group != case.group), None)
        row: dict[str, Any] = {"case_id": case.case_id, "group": case.group}
        for kind in MAPS:
            pairs = [(a, b) for j, a in enumerate(maps) for b in maps[j + 1 :]]
            row[f"{kind}: stability"] = mean_over(pairs, kind)
            sense = [(one, other_sense) for one in maps] if other_sense else []
            row[f"{kind}: other sense"] = mean_over(sense, kind)
            case_pairs = list(zip(maps, another, strict=False)) if another else []
            row[f"{kind}: another case"] = mean_over(case_pairs, kind)
            row[f"{kind}: edges"] = float(np.mean([len(one[kind]) for one in maps]))
        rows.append(row)
    return rows, left_out


# -- table and figure ---------------------------------------------------------------------------


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Means over cases with their intervals, by kind of map."""
    groups = [row["group"] for row in rows]
    out: dict[str, dict[str, Any]] = {}
    for kind in MAPS:
        stable = [row[f"{kind}: stability"] for row in rows]
        out[kind] = {"edges": float(np.mean([row[f"{kind}: edges"] for row in rows]))}
        for name in ("stability", *CONTROLS):
            values = [row[f"{kind}: {name}"] for row in rows]
            found = mean_effect(values, clusters=groups)
            out[kind][name] = {
                "mean": found.value,
                "low": found.interval.low,
                "high": found.interval.high,
                "n": found.n,
            }
            if name != "stability":
                out[kind][name]["p"] = mean_effect(stable, control=values, clusters=groups).p
    return out


def text_of(found: Mapping[str, Any], n: int, left_out: int, model: str) -> str:
    """The table in Markdown."""

    def cell(part: Mapping[str, Any]) -> str:
        if math.isnan(part["mean"]):
            return "undefined"
        p = f", p {part['p']:.2g}" if not math.isnan(part.get("p", math.nan)) else ""
        # All cases alike: no interval.
        known = not math.isnan(part["low"])
        ends = f"{plain(part['low'])} to {plain(part['high'])}; " if known else ""
        return f"{part['mean']:.2f} ({ends}{part['n']} cases{p})"

    lines = [
        [kind, plain(part["edges"], 1), *(cell(part[name]) for name in ("stability", *CONTROLS))]
        for kind, part in found.items()
    ]
    return (
        "# Stability of semantic maps\n\n"
        f"Jaccard index of the {TOP} largest edges, {model} model, {n} cases of the world's test "
        f"split ({left_out} left out: a wording without their cue). Stability: a prompt and its "
        "five paraphrases, all pairs. p: stability = control. A case counts where some pair has an "
        "edge.\n\n"
        + markdown(["map", "edges", "stability", *(f"control: {name}" for name in CONTROLS)], lines)
    )


def figure_of(found: Mapping[str, Any]) -> go.Figure:
    """Stability beside the controls, by kind of map."""
    figure = go.Figure()
    colours = (CONTEXTUAL, ASSOCIATIVE, OTHER)
    for name, colour in zip(("stability", *CONTROLS), colours, strict=True):
        parts = [found[kind][name] for kind in found]
        means = [part["mean"] for part in parts]
        figure.add_bar(
            name=name,
            x=list(found),
            y=means,
            marker_color=colour,
            error_y={
                "array": [p["high"] - p["mean"] for p in parts],
                "arrayminus": [p["mean"] - p["low"] for p in parts],
            },
        )
    figure.update_layout(
        barmode="group", yaxis_title=f"Jaccard of the {TOP} largest edges", yaxis_range=[0, 1]
    )
    return figure


def main() -> int:
    """Run the cases, write table, figure and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--n", type=int, default=60, help="cases to draw (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    options = parser.parse_args()
    try:
        import torch

        torch.set_num_threads(1)
        model = dst.load(options.model)
        cases = world.cases("test", n=options.n, seed=options.seed)
        cued = [case for case in cases if case.cue]
        with progress("maps", len(cued), unit="case") as tick:
            rows, left_out = measured(model, cued, options.seed, tick)
        if not rows:
            raise InputError("No case could be told otherwise", do="Draw more (--n)")
    except DSTError as error:
        print(f"map_stability: {error}", file=sys.stderr)
        return 2
    found = summary(rows)
    told = {"checkpoint": options.model, "weights_hash": model.spec.weights_hash}
    write(
        options.out,
        "map_stability",
        text=text_of(found, len(rows), left_out, options.model),
        figure=figure_of(found),
        values={"summary": found, "rows": rows, "left_out": left_out},
        rows=[row | told | {"seed": options.seed} for row in rows],
        command=f"python -m experiments.map_stability --model {options.model} --n {options.n} "
        f"--seed {options.seed}",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
