"""Grades on trained models: hand-made rows, and one checkpoint of the zoo."""

from __future__ import annotations

import math

import pytest

from dst.core.errors import ModelError
from dst.testbed import score_zoo as graded
from dst.testbed import zoo

NAN = math.nan


def row(kind: str, outcome: str, share: float, margin: float, rank: float) -> graded._Row:
    values = {"share": (share, 0.5), "margin": (margin, 0.0)}
    return graded._Row(kind, outcome, values, {"atp": rank})


ROWS = (
    row("plain", "correct", 0.9, 1.0, 0.5),
    row("plain", "hallucination", 0.4, 2.0, 1.0),
    row("far", "hallucination", 0.6, -1.0, NAN),
    row("far", "correct", NAN, 0.5, 0.0),
    row("far", "neither", 0.1, -1.0, 0.9),
)


def test_a_score_sides_with_the_outcome() -> None:
    grades = {(g.measure, g.kind): g for g in graded._score_grades(ROWS)}
    share, margin = grades["share", "all"], grades["margin", "all"]
    assert (share.n, share.undefined) == (3, 1)
    assert share.agrees == pytest.approx(2 / 3)
    assert (margin.n, margin.agrees) == (4, 0.75)
    assert share.low < share.agrees < share.high
    # Hallucinations have shares .4 and .6, the correct run .9: both are lower.
    assert share.auroc == 1
    # Margins of hallucinations 2 and -1, of correct runs 1 and .5: two of four pairs are lower.
    assert margin.auroc == 0.5
    assert math.isnan(grades["share", "far"].auroc)  # one outcome only


def test_ranks_are_averaged_over_cases_that_have_one() -> None:
    grades = {g.kind: g for g in graded._rank_grades(ROWS)}
    assert (grades["all"].n, grades["all"].worst) == (4, 0.0)
    assert grades["all"].spearman == pytest.approx((0.5 + 1.0 + 0.0 + 0.9) / 4)
    assert grades["plain"].spearman == 0.75


def test_the_table_tells_every_grade() -> None:
    found = graded.ZooScores(
        ("one",), graded._score_grades(ROWS), graded._rank_grades(ROWS), ("one, x: why",)
    )
    told = graded.table(found)
    assert "| share | 0.67 of 3 (1.00) |" in told
    assert "| atp | 0.60, 0.00 |" in told
    assert told.endswith("1 cases could not be measured:\none, x: why")


def test_an_unknown_checkpoint_is_refused() -> None:
    with pytest.raises(ModelError, match="no checkpoint"):
        graded.score_zoo(["l9-w1-s0-0001"])


def test_on_a_trained_model_the_exact_ranking_is_met_and_the_margin_tells_the_outcome() -> None:
    name = zoo.names()[-1]
    found = graded.score_zoo([name], per_kind=1)
    assert found.failures == ()
    margin = next(g for g in found.scores if (g.measure, g.kind) == ("margin", "all"))
    assert margin.n >= 5
    assert margin.agrees > 0.5
    assert {g.estimate for g in found.ranks} >= {"atp", "graddrop"}
