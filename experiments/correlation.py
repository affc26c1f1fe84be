"""Does coherence correlate with the hallucination rate? The paper's -0.863, asked in four ways.

    python -m experiments.correlation                                  # the zoo's studies
    python -m experiments.correlation --dataset racing_thoughts --path FILE [--model M ...]

For every score at 25, 50, 75 and 100 % of the depth, in this order: inside each checkpoint at item
level; groups (checkpoint x word) with the checkpoints' means removed; partial on checkpoint,
confidence and length; groups pooled, beside "checkpoint index alone" and "checkpoint mean alone".
Pooled values are easily bought: anything that grows with training goes with fewer errors. A score
stands if it is something inside the checkpoints, and adds to both baselines outside.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.stats import rankdata

import dst
from dst.analysis.audit import circularity_audit
from dst.analysis.bootstrap import Resampling
from dst.analysis.multiple import holm
from dst.analysis.statistics import correlation, indicators, partial_correlation
from dst.analysis.within import correlation_gain, within_groups
from dst.core.errors import DSTError
from dst.core.statistics_results import Statistic
from dst.core.study_results import StudyTable
from dst.studies.study import run_study
from experiments.items import (
    ANSWER_FREE,
    CONFIG,
    Items,
    by_group,
    held_out,
    records,
    scores,
    told,
)
from experiments.tables import markdown, plain, write
from experiments.zoo_study import OUT, tables

MAX_PROBABILITY = "maximum probability"


def measured_of(
    items: Items, values: np.ndarray, resampling: Resampling, index: Mapping[str, float]
) -> dict[str, Statistic]:
    """The six numbers of one score; ``values`` are higher where it sees more context."""
    how: dict[str, Any] = {"clusters": items.word, "resampling": resampling}
    warning = -values
    doubt = -items.confidence
    found = {
        "auroc": within_groups(warning, items.error, items.model, **how),
        "over confidence": within_groups(warning, items.error, items.model, beside=doubt, **how),
        "spearman": within_groups(values, items.error, items.model, statistic="spearman", **how),
        "partial": partial_correlation(
            values,
            items.error,
            {
                "checkpoint": indicators(items.model),
                "confidence": items.confidence,
                "length": items.column("prompt_tokens"),
            },
            strata=items.model,
            **how,
        ),
    }
    model, word, mean, rate = by_group(items, values)
    how["clusters"] = word
    if len(model) < 3:
        nothing = correlation([], [], unit="group", resampling=resampling)
        return found | dict.fromkeys(
            ("means removed", "pooled", "over index", "over mean"), nothing
        )
    level = np.array([mean[model == one].mean() for one in model])
    place = np.array([index[one] for one in model])
    return found | {
        "means removed": partial_correlation(
            mean, rate, {"checkpoint": indicators(model)}, ranked=False, unit="group", strata=model,
            **how,
        ),
        "pooled": correlation(mean, rate, method="pearson", unit="group", **how),
        "over index": correlation_gain(mean, place, rate, **how),
        "over mean": correlation_gain(mean, level, rate, **how),
    }  # fmt: skip


def places(models: Sequence[str]) -> dict[str, float]:
    """How far each model is trained: the rank of the step that its name ends in, else its place.

    Checkpoints of several runs are ranked by their steps together, as by somebody who knows nothing
    of a model but how long it was trained.
    """
    steps = [re.search(r"-(\d+)$", name) for name in models]
    if not all(steps):
        return {name: float(place) for place, name in enumerate(models)}
    trained = [int(step.group(1)) for step in steps if step]
    ranks = rankdata(trained)
    return {name: float(rank) for name, rank in zip(models, ranks, strict=True)}


def baselines(items: Items, resampling: Resampling, index: Mapping[str, float]) -> dict[str, Any]:
    """What the checkpoint alone, without any score, would have given."""
    model, word, _, rate = by_group(items, np.ones(len(items)))
    place = np.array([index[one] for one in model])
    how: dict[str, Any] = {"clusters": word, "resampling": resampling, "unit": "group"}
    return {"checkpoint index alone": correlation(place, rate, method="pearson", **how)}


def table(results: Mapping[str, Mapping[str, Statistic]]) -> str:
    """One line per score and depth."""
    names = list(next(iter(results.values())))
    header = {
        "auroc": "inside: AUROC", "over confidence": "over max probability",
        "spearman": "inside: Spearman", "partial": "partial Spearman",
        "means removed": "groups, means removed: Pearson", "pooled": "groups pooled: Pearson",
        "over index": "over index alone", "over mean": "over mean alone",
    }  # fmt: skip
    lines = [[score, *(told(found[name]) for name in names)] for score, found in results.items()]
    return markdown(["score", *(header[name] for name in names)], lines)


def chosen(items: Items, resampling: Resampling) -> str:
    """Of the scores without an answer's direction, before the end, the best inside models."""
    best = {
        name: within_groups(-items.column(name), items.error, items.model, resampling=resampling)
        for name in scores()
        if name.split("@")[0] in ANSWER_FREE and not name.endswith("@1")
    }
    return max(best, key=lambda name: np.nan_to_num(best[name].value, nan=-1.0))


def stands(found: Mapping[str, Statistic]) -> dict[str, bool]:
    """The three things asked of a score; an interval that is not there is no yes."""
    return {
        "something inside checkpoints": found["auroc"].interval.low > 0.5,
        "more than maximum probability": found["over confidence"].interval.low > 0,
        "more than the checkpoint outside": (
            found["over index"].interval.low > 0 and found["over mean"].interval.low > 0
        ),
    }


def audit(items: Items, name: str, resampling: Resampling) -> str:
    """The chosen score beside conditions that cannot know what it claims."""
    score = name.split("@")[0]
    found = circularity_audit(
        items.column(name),
        {
            "neutral_only": items.column("base") + items.column("prior"),
            "last_layer": items.column(f"{score}@1"),
            "answer_projected_out": items.column("separation_projected@0.5"),
        },
        items.error,
        higher_means_error=False,
        clusters=items.word,
        resampling=resampling,
    )
    lines = [
        [row["condition"], plain(row["value"]), plain(row.get("difference_value", float("nan"))),
         "" if "beaten" not in row else "yes" if row["beaten"] else "no"]
        for row in found.to_records()
    ]  # fmt: skip
    missing = f"\nNot run: {', '.join(found.missing)}.\n" if found.missing else ""
    header = ["condition", "pooled AUROC", "score minus condition", "beaten"]
    return markdown(header, lines) + missing


def figure(items: Items, name: str, paper: float, pooled: Statistic) -> go.Figure:
    """Groups, pooled: mean score against error rate, one colour a checkpoint."""
    model, word, mean, rate = by_group(items, items.column(name))
    drawn = go.Figure()
    for one in dict.fromkeys(model):
        mine = model == one
        drawn.add_scatter(
            x=mean[mine], y=rate[mine], text=word[mine], mode="markers", name=str(one),
            hovertemplate="%{text}: score %{x:.2f}, error rate %{y:.2f}",
        )  # fmt: skip
    drawn.update_layout(
        title=f"{name} against the error rate: r = {told(pooled)}; the paper reports {paper}",
        xaxis_title=f"mean {name} of a word in a checkpoint",
        yaxis_title="share of its stories answered with the association",
        yaxis_range=[-0.03, 1.03],
    )
    return drawn


def studies_of(given: argparse.Namespace) -> dict[str, StudyTable]:
    """The zoo's studies; or one study per model on a data set, run here where it is missing."""
    if not given.dataset:
        return tables(given.zoo)
    cases = list(dst.load_dataset(given.dataset, given.path, limit=given.limit))
    made = {}
    for name in given.model or CONFIG["models"]:
        folder = given.out / "studies" / name.replace("/", "--")
        made[name] = run_study(name, cases, out=folder, suggest=True)
    return made


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--zoo", type=Path, default=OUT, help="where the zoo's studies are")
    parser.add_argument("--dataset", help="a data set of dst.load_dataset, instead of the zoo")
    parser.add_argument("--path", help="its file")
    parser.add_argument("--limit", type=int, help="cases of it")
    parser.add_argument("--model", action="append", help="a model (the paper's six)")
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    parser.add_argument("--resamples", type=int, default=CONFIG["resamples"])
    given = parser.parse_args()
    try:
        items = Items.of(studies_of(given))
    except DSTError as error:
        print(error, file=sys.stderr)
        return 2
    report(items, given.out, given.resamples)
    return 0


def report(items: Items, out: Path, resamples: int) -> dict[str, Any]:
    """Everything measured, written and returned."""
    seed, paper = CONFIG["seed"], CONFIG["paper"]
    resampling = Resampling(n_resamples=resamples, seed=seed)
    neither = int(np.isnan(items.error).sum())
    items = items.where(~np.isnan(items.error))
    development = held_out(items.word, CONFIG["development_share"], seed)
    name = chosen(items.where(development), Resampling(n_resamples=0, n_permutations=0))
    index = places([*dict.fromkeys(items.model)])
    test = items.where(~development)
    results = {
        score: measured_of(items, items.column(score), resampling, index)
        for score in dict.fromkeys(scores())
    }
    alone = {
        MAX_PROBABILITY: within_groups(
            -items.confidence, items.error, items.model, clusters=items.word, resampling=resampling
        )
    } | baselines(items, resampling, index)
    predictor = measured_of(test, test.column(name), resampling, index)
    adjusted = holm([found["partial"].p for found in results.values()])
    pooled = {score: found["pooled"].value for score, found in results.items()}
    strongest = min(
        (score for score in pooled if not np.isnan(pooled[score])), key=lambda s: pooled[s]
    )
    groups = len(by_group(items, np.ones(len(items)))[0])
    text = "\n".join(
        [
            "# Coherence and the hallucination rate\n",
            f"{len(items)} cases in {len(index)} models, {groups} groups (model x word); {neither} "
            f"answers that are neither are counted apart. Intervals: 95 %, BCa, {resamples} "
            "resamples of words, then of items in them. Higher scores mean more context, so "
            "that a good score correlates negatively with errors.\n",
            f"The paper reports {paper} (unit, number and layer unknown). The strongest pooled "
            f"value here is {strongest}: {told(results[strongest]['pooled'])}.\n",
            *(f"- {label}: {told(found)}" for label, found in alone.items()),
            "\n## Every score\n",
            table(results),
            f"{int((adjusted < 0.05).sum())} of {len(results)} partial correlations hold together "
            "(Holm, .05).\n",
            f"## The predictor chosen on {CONFIG['development_share']:.0%} of the words: {name}\n",
            "Among scores into which no answer's direction enters, before the last state; judged "
            f"on the other words ({len(test)} cases).\n",
            table({name: predictor}),
            *(f"- {claim}: {'yes' if so else 'no'}" for claim, so in stands(predictor).items()),
            "\n## Circularity audit\n",
            audit(test, name, resampling),
        ]
    )  # fmt: skip
    values = {
        "paper": paper,
        "predictor": name,
        "stands": stands(predictor),
        "on_test_words": {key: found.to_records()[0] for key, found in predictor.items()},
        "baselines": {key: found.to_records()[0] for key, found in alone.items()},
        "scores": {
            score: {key: one.to_records()[0] for key, one in found.items()}
            for score, found in results.items()
        },
    }
    write(
        out, "correlation", text=text, figure=figure(items, name, paper, results[name]["pooled"]),
        values=values, rows=records(items), command="python -m experiments.correlation",
    )  # fmt: skip
    return values


if __name__ == "__main__":
    sys.exit(main())
