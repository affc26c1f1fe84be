"""The items of several studies as columns: what the statistics of an experiment start from."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dst.analysis.bootstrap import Resampling
from dst.analysis.coherence import DEFINITIONS
from dst.core.errors import DSTError
from dst.core.statistics_results import Statistic
from dst.core.study_results import StudyTable
from experiments.tables import plain
from experiments.zoo_study import OUT, tables

CONFIG = tomllib.loads(Path(__file__).with_name("correlation.toml").read_text("utf-8"))

DEPTHS = (0.25, 0.5, 0.75, 1.0)

ANSWER_FREE = ("separation", "separation_projected", "separation_neutral")
"""Scores into which no direction of an answer enters."""


@dataclass(frozen=True)
class Items:
    """One entry per case and model; NaN where a number is undefined.

    Attributes:
        tables: Model -> its study.
        model: Which model.
        word: Which word (the case's group).
        error: 1 hallucination, 0 correct, NaN for an answer that is neither.
    """

    tables: Mapping[str, StudyTable]
    model: np.ndarray
    word: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, tables: Mapping[str, StudyTable]) -> Items:
        """The measured cases of some studies."""
        kept = {name: one.where(one.column("status") == "ok") for name, one in tables.items()}
        return cls(
            kept,
            np.concatenate([np.full(len(one), name) for name, one in kept.items()]),
            np.concatenate([one.column("group") for one in kept.values()]).astype(str),
            np.concatenate([one.column("error") for one in kept.values()]),
        )

    def __len__(self) -> int:
        return len(self.error)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, such as ``separation@0.5`` or ``answer_prob``."""
        return np.concatenate([one.column(name) for one in self.tables.values()])

    def where(self, kept: np.ndarray) -> Items:
        """Some of the items."""
        ends = np.cumsum([len(one) for one in self.tables.values()])[:-1]
        parts = np.split(kept, ends)
        return Items(
            {n: one.where(part) for (n, one), part in zip(self.tables.items(), parts, strict=True)},
            self.model[kept],
            self.word[kept],
            self.error[kept],
        )

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the answer given: the baseline of every detector."""
        return self.column("answer_prob")


def scores() -> list[str]:
    """Every score at every depth of the experiments; at depth 0 the prompts say the same."""
    return [f"{name}@{depth:g}" for name in DEFINITIONS for depth in DEPTHS]


def held_out(words: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Whether each item's word is one of the development words, which are drawn whole."""
    names = np.unique(words)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(names, size=max(1, round(share * len(names))), replace=False)
    return np.isin(words, chosen)


def by_group(items: Items, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Model, word, mean of a score and error rate of every model x word with both defined."""
    there = ~np.isnan(values) & ~np.isnan(items.error)
    found = []
    for model in np.unique(items.model):
        for word in np.unique(items.word):
            rows = there & (items.model == model) & (items.word == word)
            if rows.any():
                found.append((model, word, values[rows].mean(), items.error[rows].mean()))
    model, word, mean, rate = zip(*found, strict=True) if found else ((), (), (), ())
    return np.array(model), np.array(word), np.array(mean), np.array(rate)


def asked(description: str) -> tuple[Path, Items, Resampling]:
    """Folder to write to, the zoo's answered cases and the resampling that the command line names.

    Without studies it exits with 2, saying why.
    """
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--zoo", type=Path, default=OUT, help="where the zoo's studies are")
    parser.add_argument("--out", type=Path, default=Path("experiments/out"))
    parser.add_argument("--resamples", type=int, default=CONFIG["resamples"])
    given = parser.parse_args()
    try:
        items = Items.of(tables(given.zoo))
    except DSTError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    resampling = Resampling(n_resamples=given.resamples, n_permutations=0, seed=CONFIG["seed"])
    return given.out, items.where(~np.isnan(items.error)), resampling


def told(found: Statistic, digits: int = 2) -> str:
    """A value with its interval; "" where there is none."""
    if found.reason:
        return ""
    ends = found.interval
    between = "" if ends.reason else f" ({ends.low:.{digits}f} to {ends.high:.{digits}f})"
    return f"{plain(found.value, digits)}{between}"


def records(items: Items) -> list[dict[str, Any]]:
    """What the provenance says of the items: model, weights and seed of each."""
    return [
        {
            "checkpoint": model,
            "weights_hash": digest,
            "seed": one.study.get("settings", {}).get("seed"),
        }
        for model, one in items.tables.items()
        for digest in one.column("weights_hash")
    ]
