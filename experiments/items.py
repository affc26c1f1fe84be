"""The items of several studies as columns: what the statistics of an experiment start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dst.analysis.coherence import DEFINITIONS
from dst.core.study_results import StudyTable

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
