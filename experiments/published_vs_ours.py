"""The published quantities and ours on the same runs: what each of them knows.

    python -m experiments.published_vs_ours

Scores: AUROC for errors inside models; how much of a score the prompt's noun alone explains (a
score that knows the word and not the prompt has a share near 1); how often it is undefined.
Marks: how often each is found in runs that fail and in runs that are right. A mark of the moment
in which a hallucination begins should not be found where none does.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dst.analysis.bootstrap import Resampling
from dst.analysis.coherence import DEFINITIONS
from dst.analysis.within import within_groups
from dst.plot.palette import ASSOCIATIVE, CONTEXTUAL
from dst.studies.rows import MARKS
from experiments.items import Items, asked, records, told
from experiments.tables import markdown, plain, share, write

DEPTH = 0.75


def word_share(items: Items, values: np.ndarray) -> float:
    """Share of a score's variance inside models that the noun alone explains: adjusted eta squared.

    1 - (1 - eta^2) (n - 1) / (n - words), mean over models: 0 on average for words drawn at random.
    """
    found = []
    for model in np.unique(items.model):
        mine = (items.model == model) & ~np.isnan(values)
        words, own = items.word[mine], values[mine]
        means = {word: own[words == word].mean() for word in np.unique(words)}
        if len(own) <= len(means) or np.ptp(own) == 0:
            continue
        left = float(((own - np.array([means[word] for word in words])) ** 2).mean() / own.var())
        found.append(1 - left * (len(own) - 1) / (len(own) - len(means)))
    return float(np.mean(found)) if found else float("nan")


def score_rows(items: Items, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """Every score at `DEPTH`."""
    found = {}
    for name in DEFINITIONS:
        values = items.column(f"{name}@{DEPTH:g}")
        found[name] = {
            "published": DEFINITIONS[name].source.startswith("published"),
            "undefined": int(np.isnan(values).sum()),
            "auroc": within_groups(
                -values, items.error, items.model, clusters=items.word, resampling=resampling
            ),
            "word_share": word_share(items, values),
        }
    return found


def mark_rows(items: Items) -> dict[str, dict[str, int]]:
    """Every mark: how often it is found in failing and in correct runs that could have it."""
    found = {}
    for name, definition in MARKS:
        state = items.column(f"{name} ({definition})")
        counts: dict[str, int] = {}
        for outcome, error in (("failing", 1.0), ("correct", 0.0)):
            mine = items.error == error
            counts |= {
                outcome: int(mine.sum()),
                f"in {outcome}": int((~np.isnan(state[mine])).sum()),
            }
        found[f"{name} ({definition})"] = counts
    return found


def figure(marks: dict[str, dict[str, int]]) -> go.Figure:
    """Rates of every mark in failing and in correct runs."""
    drawn = go.Figure()
    names = list(marks)
    for outcome, colour in (("failing", ASSOCIATIVE), ("correct", CONTEXTUAL)):
        drawn.add_bar(
            y=names,
            x=[marks[name][f"in {outcome}"] / max(1, marks[name][outcome]) for name in names],
            name=f"{outcome} runs",
            orientation="h",
            marker={"color": colour},
        )
    drawn.update_layout(
        title="How often each mark is found", xaxis_title="share of runs", height=760,
        margin={"l": 330}, yaxis={"autorange": "reversed"},
    )  # fmt: skip
    return drawn


def main() -> int:
    """The command line."""
    out, items, resampling = asked(__doc__)
    scores, marks = score_rows(items, resampling), mark_rows(items)
    text = "\n".join(
        [
            "# Published quantities beside ours\n",
            f"{len(items)} cases in {len(items.tables)} models; scores at {DEPTH:.0%} of the "
            "depth. AUROC .5 is chance; higher means that low scores go with errors.\n",
            markdown(
                ["score", "published", "AUROC inside models", "explained by the noun", "undefined"],
                [
                    [name, "yes" if one["published"] else "", told(one["auroc"]),
                     plain(one["word_share"]), one["undefined"]]
                    for name, one in scores.items()
                ],
            ),
            "## Marks\n",
            markdown(
                ["mark", "found in failing runs", "found in correct runs"],
                [
                    [name, share(one["in failing"], one["failing"]),
                     share(one["in correct"], one["correct"])]
                    for name, one in marks.items()
                ],
            ),
        ]
    )  # fmt: skip
    values = {
        "scores": {
            name: one | {"auroc": one["auroc"].to_records()[0]} for name, one in scores.items()
        },
        "marks": marks,
    }
    write(
        out, "published_vs_ours", text=text, figure=figure(marks), values=values,
        rows=records(items), command="python -m experiments.published_vs_ours",
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
